"""Waiting for work that must finish although the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..guard import wait_out

__all__ = ["undisturbed"]

T = TypeVar("T")

CLOSE_SECONDS = 5.0


async def undisturbed(work: Coroutine[Any, Any, T], seconds: float = CLOSE_SECONDS) -> T:
    """Await ``work``, such as the closing of a connection, and pass a cancellation on after it.

    httpx 0.28 loses a connection of its pool for ever if the closing is cut. The work runs in a
    context of its own: at a run's end the runtime cancels the tasks made in the run's context.

    Raises:
        TimeoutError: it took too long, and was given up.
    """

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await work

    loop = asyncio.get_running_loop()
    task = loop.create_task(bounded(), context=contextvars.Context())
    interruption = await wait_out(task)
    if interruption is not None:
        raise interruption
    return task.result()
