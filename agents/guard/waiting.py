"""Wait for a task through cancellations of the task that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["retrieve", "wait_out"]


async def wait_out(
    task: asyncio.Future[Any], on_cancel: Callable[[], object] = lambda: None
) -> asyncio.CancelledError | None:
    """Wait until a task or future is done, through cancellations; return the last of them.

    Each cancellation calls ``on_cancel``.
    """
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interruption = error
            on_cancel()
    if interruption is not None:
        retrieve(task)
    return interruption


def retrieve(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging a task's error: a cancellation goes first."""
    if task.done() and not task.cancelled():
        task.exception()
