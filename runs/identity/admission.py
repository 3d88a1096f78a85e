"""Let a few sign-ins in at a time; the others wait on the event loop, without a thread.

Checking a password takes a good part of a second of a processor. Two hundred clients that guess
would otherwise have two hundred threads, and a stop would be one of them.

No address can take all places in the queue: the sign-ins of others wait for a few of an attacker's,
and not for all.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runs.exceptions import SignInRefused

from .passwords import AT_ONCE

__all__ = ["Admission"]


class Admission:
    """The sign-ins of one process; on its event loop.

    Args:
        at_once: how many are let in.
        most_waiting: of these wait at most so many, from all addresses together.
        most_of_one: and so many from one address.
        patience_seconds: for how long one waits.
        pause_seconds: so much later a refusal is answered, which costs a guessing client time.
    """

    def __init__(
        self,
        at_once: int = AT_ONCE + 1,  # while one computes, another one reads and writes
        most_waiting: int = 100,
        most_of_one: int = 8,
        patience_seconds: float = 8.0,
        pause_seconds: float = 1.0,
    ) -> None:
        self._free = at_once
        self._most_waiting = most_waiting
        self._most_of_one = most_of_one
        self._patience_seconds = patience_seconds
        self._pause_seconds = pause_seconds
        self._queue: deque[asyncio.Future[None]] = deque()
        self._waiting: Counter[str] = Counter()

    @asynccontextmanager
    async def place(self, address: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it during the block.

        Raises:
            SignInRefused: too many wait already, or the wait was too long.
        """
        if self._free <= 0 or self._queue:
            await self._wait(address)
        else:
            self._free -= 1
        try:
            yield
        finally:
            self._release()

    async def _wait(self, address: str) -> None:
        is_full = self._waiting.total() >= self._most_waiting
        if is_full or self._waiting[address] >= self._most_of_one:
            await asyncio.sleep(self._pause_seconds)
            raise SignInRefused(self._pause_seconds)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(mine)
        self._waiting[address] += 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():
                self._release()  # the place was given at the same moment
            elif mine in self._queue:
                self._queue.remove(mine)
            if isinstance(error, TimeoutError):
                raise SignInRefused(self._pause_seconds) from None
            raise
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    def _release(self) -> None:
        """Give the place to the next one that still waits."""
        while self._queue:
            following = self._queue.popleft()
            if not following.done():
                following.set_result(None)
                return
        self._free += 1
