"""Turns: how many may use something at a time, so that no owner takes it all."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Hashable

__all__ = ["Turns"]


class Turns:
    """Lets ``most`` callers in at a time, and ``per_owner`` of one owner; the others wait.

    Those of one owner wait for each other first, so an owner has few callers among all that wait.
    Each event loop counts by itself; a worker's process has one for agents.
    """

    def __init__(self, most: int, *, per_owner: int) -> None:
        self.most = most
        self.per_owner = per_owner
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Counted] = (
            weakref.WeakKeyDictionary()
        )

    async def take(self, owner: Hashable) -> Callable[[], None]:
        """Wait for a turn, and return the function that ends it; call that once, on the loop."""
        counted = self._loops.setdefault(asyncio.get_running_loop(), _Counted(self.most))
        of_owner = counted.owners.get(owner)
        if of_owner is None:
            counted.owners[owner] = of_owner = asyncio.Semaphore(self.per_owner)
        await of_owner.acquire()
        try:
            await counted.all.acquire()
        except BaseException:
            of_owner.release()
            raise

        def end() -> None:
            counted.all.release()
            of_owner.release()

        return end


class _Counted:
    def __init__(self, most: int) -> None:
        self.all = asyncio.Semaphore(most)
        # An owner whose turns are all over is forgotten.
        self.owners: weakref.WeakValueDictionary[Hashable, asyncio.Semaphore] = (
            weakref.WeakValueDictionary()
        )
