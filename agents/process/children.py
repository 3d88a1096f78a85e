"""Processes that a run starts by asyncio: known work of the run until they have exited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agents.guard import Guard

from .state import own_work

__all__ = ["start_watched"]


class _Watched:
    """Stands between a process and its protocol, to hear of the exit."""

    def __init__(self, inner: Any, on_exit: Callable[[], None]) -> None:
        self.inner = inner
        self._on_exit = on_exit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def process_exited(self) -> None:
        self._on_exit()
        self.inner.process_exited()


async def start_watched(
    guard: Guard,
    start: Callable[[Callable[[], Any]], Awaitable[tuple[Any, Any]]],
    protocol_factory: Callable[[], Any],
    label: str,
) -> tuple[Any, Any]:
    """Await ``start(protocol factory)``, as ``loop.subprocess_exec`` does, and watch the process.

    Returns its transport and the protocol that ``protocol_factory`` has made.
    """
    work = guard.in_flight.begin_work("process", label)

    def make() -> _Watched:
        return _Watched(protocol_factory(), lambda: guard.in_flight.end_work(work))

    try:
        with own_work():  # it is watched, so it is not counted as one that is not
            transport, watched = await start(make)
    except BaseException:  # asyncio has waited for the process, if there was one
        guard.in_flight.end_work(work)
        raise
    return transport, watched.inner
