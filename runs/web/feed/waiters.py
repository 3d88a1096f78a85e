"""Requests that wait for the end of a run: one future each, one query for all of them.

The hub hears of an end at once, from this process or by message. Polling finds the ends that no
message has told of.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from . import reading
from .rights import RightLost, Viewer

__all__ = ["POLL_SECONDS", "Waiter", "Waiters"]

POLL_SECONDS = 1.0
MOST_AT_ONCE = 1_000  # runs in one query


class Waiter:
    """One request. It may be let go before the run is over, like a reader of a feed."""

    def __init__(self, viewer: Viewer) -> None:
        assert viewer.run is not None
        self.viewer = viewer
        self.run = viewer.run
        self.lost: RightLost | None = None
        self._is_decided = asyncio.Event()

    def wake(self) -> None:
        self._is_decided.set()

    async def until_over(self, seconds: float | None) -> bool:
        """Wait, without an end if ``seconds`` is None; return whether the run is over.

        Raises:
            RightLost: the user may not see the run any longer, or this process ends.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._is_decided.wait()
        except TimeoutError:
            return False
        if self.lost is not None:
            raise self.lost
        return True


class Waiters:
    """The waiting requests of a hub, by run. Used on its loop alone, except ``in``.

    Args:
        read: calls a function that reads the database.
    """

    def __init__(self, read: Callable[..., Awaitable[Any]]) -> None:
        self._read = read
        self._waiting: dict[uuid.UUID, set[Waiter]] = {}
        self._stale: dict[uuid.UUID, None] = {}
        self._work = asyncio.Event()

    def __contains__(self, run: uuid.UUID) -> bool:
        return run in self._waiting

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for some in self._waiting.values() for waiter in some)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, waiter: Waiter) -> None:
        """Take on a waiter. Its run is read once: it may have ended a moment ago."""
        self._waiting.setdefault(waiter.run, set()).add(waiter)
        self.run_has_changed(waiter.run)

    def discard(self, waiter: Waiter) -> None:
        some = self._waiting.get(waiter.run, set())
        some.discard(waiter)
        if not some:
            self._waiting.pop(waiter.run, None)

    def run_has_changed(self, run: uuid.UUID) -> None:
        """Read whether a run is over, if a request waits for that."""
        if run in self._waiting:
            self._stale[run] = None
            self._work.set()

    async def refresh(self) -> None:
        """Wait until runs may be over, and tell their waiters."""
        await self._work.wait()
        self._work.clear()
        while some := list(self._stale)[:MOST_AT_ONCE]:
            # Forget them first: a change during the query is read again.
            for run in some:
                del self._stale[run]
            try:
                over = await self._read(reading.read_over, some)
            except BaseException:
                self._stale |= dict.fromkeys(some)
                self._work.set()
                raise
            for run in over:
                for waiter in self._waiting.get(run, ()):
                    waiter.wake()

    async def poll(self) -> None:
        """Read all runs that are waited for: a message may be lost."""
        if self._waiting:
            self._stale |= dict.fromkeys(self._waiting)
            self._work.set()
