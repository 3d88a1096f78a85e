"""Waiting for work that must finish although the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["undisturbed", "wait_out"]

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


async def wait_out(
    task: asyncio.Task[Any], on_cancel: Callable[[], None] = lambda: None
) -> asyncio.CancelledError | None:
    """Wait until ``task`` is done, through cancellations; return the last of them.

    Each cancellation calls ``on_cancel``.
    """
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interruption = error
            on_cancel()
    if interruption is not None and not task.cancelled():
        task.exception()  # retrieved, so that asyncio logs none: the cancellation goes first
    return interruption
