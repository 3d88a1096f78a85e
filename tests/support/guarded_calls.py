"""Helpers for the tests in tests/agents/guard."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from agents.guard import Guard

SECONDS = 10.0


class Backend:
    """A slow backend of a tool: a test waits for its start, and decides when it ends."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cut = 0
        self.done = 0

    async def work(self, result: Any = "result") -> Any:
        self.started.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        if isinstance(result, Exception):
            raise result
        self.done += 1
        return result


async def guarded(guard: Guard, backend: Backend, result: Any = "result") -> Any:
    with guard.call("http", "GET x") as call:
        return await call.uninterrupted(
            backend.work(result), lambda got: call.data.update(record=got)
        )


async def complaints_of_the_collector(
    make: Callable[[], Awaitable[None]] | None = None,
) -> list[dict[str, Any]]:
    """Return the loop's complaints after a garbage collection: lost exceptions."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    try:
        if make is not None:
            await make()
        await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    return complaints
