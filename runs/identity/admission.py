"""Let a few requests in at a time; the others wait on the event loop, without a thread.

Two hundred clients that guess passwords would otherwise have two hundred threads, and a stop would
be one of them. Checking a password takes a good part of a second of a processor.

No address can fill a bounded queue: the sign-ins of others wait for a few of an
attacker's, and not for all.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runs.exceptions import SignInRefused

__all__ = ["Admission"]


class Admission:
    """The requests of one kind in one process; on its event loop.

    Args:
        at_once: how many are let in.
        most_waiting: of these wait at most so many, from all addresses together; None is no limit.
        most_of_one: and so many from one address.
        patience_seconds: for how long one waits; None is no limit.
    """

    def __init__(
        self,
        at_once: int,
        most_waiting: int | None = None,
        most_of_one: int | None = None,
        patience_seconds: float | None = None,
    ) -> None:
        self._free = at_once
        self._most_waiting = most_waiting
        self._most_of_one = most_of_one
        self._patience_seconds = patience_seconds
        self._queue: deque[asyncio.Future[None]] = deque()
        self._waiting: Counter[str] = Counter()

    def refuse_if_full(self, address: str) -> None:
        """Check that one more from ``address`` may wait.

        Raises:
            SignInRefused: the queue is full. The time to wait differs, so that clients that were
                refused together don't come back together.
        """
        if self._free > 0:
            return
        is_full = self._most_waiting is not None and len(self._queue) >= self._most_waiting
        most = self._most_of_one
        if is_full or (most is not None and self._waiting[address] >= most):
            raise SignInRefused(random.uniform(1, 3))  # noqa: S311 - no secret

    @asynccontextmanager
    async def admitted(self, address: str = "") -> AsyncIterator[None]:
        """Wait to be let in, and count as inside during the block.

        Raises:
            SignInRefused: too many wait already, or the wait was too long.
        """
        self.refuse_if_full(address)
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(address)
        try:
            yield
        finally:
            self._release()

    async def _wait(self, address: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(mine)
        self._waiting[address] += 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():
                self._release()  # it was let in at the same moment
            if isinstance(error, TimeoutError):
                raise SignInRefused(1) from None
            raise
        finally:
            if mine in self._queue:
                self._queue.remove(mine)
            self._waiting -= Counter([address])  # drops what is zero

    def _release(self) -> None:
        """Let in the next one that still waits."""
        while self._queue:
            following = self._queue.popleft()
            if not following.done():
                following.set_result(None)
                return
        self._free += 1
