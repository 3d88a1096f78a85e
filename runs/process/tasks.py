"""End tasks of an event loop, and wait until all have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

__all__ = ["cancel_and_wait"]

_AGAIN_SECONDS = 0.5


async def cancel_and_wait(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end; cancel again, since a cancellation may be lost.

    redis-py writes with ``asyncio.wait_for``. Before Python 3.12 that loses a cancellation which
    comes when the write is done (https://github.com/python/cpython/issues/86296): 3 of 60, at a
    random moment while a listener subscribes. A cancellation of the caller is raised at the end.
    """
    left = set(tasks)
    cancelled: asyncio.CancelledError | None = None
    while left:
        for task in left:
            task.cancel()
        try:
            _, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
