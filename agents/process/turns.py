"""Turns: how many may use something at a time, so that no owner takes it all."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

__all__ = ["Turns"]


class Turns:
    """Lets ``most`` callers in at a time, and ``per_owner`` of one owner; the others wait.

    The owner with the fewest turns comes next. With ``one_beyond`` an owner that has none gets one
    even if all are taken. Each event loop counts by itself; a worker's process has one for agents.
    """

    def __init__(self, most: int, *, per_owner: int, one_beyond: bool = False) -> None:
        self.most = most
        self.per_owner = per_owner
        self.one_beyond = one_beyond
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Counted] = (
            weakref.WeakKeyDictionary()
        )

    async def take(self, owner: Hashable) -> Callable[[], None]:
        """Wait for a turn, and return the function that ends it; call that once, on the loop."""
        loop = asyncio.get_running_loop()
        counted = self._loops.setdefault(loop, _Counted())

        def end() -> None:
            counted.of_owners[owner] -= 1
            if not counted.of_owners[owner]:
                del counted.of_owners[owner]
            self._let_in(counted)

        turn: asyncio.Future[None] = loop.create_future()
        counted.waiting[turn] = owner
        self._let_in(counted)
        try:
            await turn
        except BaseException:
            if counted.waiting.pop(turn, turn) is turn:  # it was let in, and gives up all the same
                end()
            raise
        return end

    def _let_in(self, counted: _Counted) -> None:
        held = counted.of_owners
        while counted.waiting:
            turn = min(counted.waiting, key=lambda turn: held[counted.waiting[turn]])
            owner = counted.waiting[turn]
            is_free = held.total() < self.most or (self.one_beyond and not held[owner])
            if held[owner] >= self.per_owner or not is_free:
                return
            del counted.waiting[turn]
            held[owner] += 1
            if not turn.done():
                turn.set_result(None)


@dataclass
class _Counted:
    of_owners: Counter[Hashable] = field(default_factory=Counter)
    waiting: dict[asyncio.Future[None], Hashable] = field(default_factory=dict)
