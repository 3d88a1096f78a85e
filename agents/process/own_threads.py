"""Threads for what the library itself does for runs, so that no agent's jobs are in its way."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from agents.guard import current_guard

from .daemons import DaemonThreads
from .turns import Turns

__all__ = ["COMPUTING", "LOOK_UPS", "OwnThreads"]

T = TypeVar("T")


class OwnThreads:
    """Calls functions in threads: so many at a time, of these so many for one owner.

    An owner that has no thread gets one even if all are taken: another's may take long.
    """

    def __init__(self, name: str, most: int, *, per_owner: int) -> None:
        self._turns = Turns(most, per_owner=per_owner, one_beyond=True)
        self._threads = DaemonThreads(name)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function`` in this context, in a thread, and return its result.

        A cancellation ends the wait, and not the call: its place is free when it has returned.
        """
        guard, loop = current_guard(), asyncio.get_running_loop()
        end_turn = await self._turns.take(None if guard is None else guard.owner)
        answer: asyncio.Future[T] = loop.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            end_turn()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        call = partial(contextvars.copy_context().run, function, *args)
        try:
            self._threads.do(partial(_call, call, loop, finish))
        except BaseException:
            end_turn()
            raise
        return await answer


def _call(
    call: Callable[[], Any],
    loop: asyncio.AbstractEventLoop,
    finish: Callable[[Any, BaseException | None], None],
) -> None:
    result, error = None, None
    try:
        result = call()
    except BaseException as raised:
        error = raised
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(
            cast(Callable[..., object], finish), result, error, context=contextvars.Context()
        )


#: A server of names that does not answer keeps a thread for half a minute, and nothing can end it.
LOOK_UPS = OwnThreads("agents-resolving", 16, per_owner=4)
#: What would keep the loop busy.
COMPUTING = OwnThreads("agents-computing", 8, per_owner=2)
