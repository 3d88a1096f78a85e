"""How a run calls and starts others: an ``agents.environment.AgentCaller`` on the records.

A called run begins at once, in its caller's process and as a part of it. A started one is queued,
and is looked after by ``started``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from agents.environment import ChildEnd
from agents.exceptions import AgentError
from agents.guard import Guard
from runs.actions import starting
from runs.actions.finishing import Ended
from runs.db.threads import DatabaseThreads
from runs.db.transactions import NothingWritten, patiently
from runs.delivery import stops
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import InputTooLarge, ParentIsStopping
from runs.models import RunRecord
from runs.status import Status

from .started_runs import StartedRun, StartedRuns, ask_to_stop

__all__ = ["AgentCaller"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Begin = Callable[[RunRecord, ActiveRun], "asyncio.Task[Ended | None]"]
GAVE_UP = "its caller does not wait for it any longer"


class AgentCaller:
    """Begins runs below one run. For the agents' loop.

    Args:
        begin: begins with a called run.
    """

    __slots__ = ("_begin", "_database", "_giving_up", "_guard", "_started", "parent")

    def __init__(
        self,
        parent: ActiveRun,
        guard: Guard,
        database: DatabaseThreads,
        started: StartedRuns,
        begin: Begin,
    ) -> None:
        self.parent = parent
        self._guard = guard
        self._database = database
        self._started = started
        self._begin = begin
        self._giving_up: set[asyncio.Task[None]] = set()

    async def start(self, name: str, input: object) -> _Called:
        record, entry = await self._born(starting.start_child, "agents.call", name, input)
        return _Called(self, entry, self._begin(record, entry))

    async def queue(self, name: str, input: object) -> StartedRun:
        record = await self._born(starting.queue_child, "agents.start", name, input)
        return self._started.add(self.parent, record)

    def give_up(self, run: uuid.UUID) -> None:
        """Ask a called run to stop because nobody waits for it any longer."""
        # In a context of its own: it is no task of the agent's, and outlives what it did.
        giving_up = asyncio.get_running_loop().create_task(
            ask_to_stop(self._database, self.parent, run, GAVE_UP), context=contextvars.Context()
        )
        self._giving_up.add(giving_up)
        giving_up.add_done_callback(self._has_given_up)

    def _has_given_up(self, task: asyncio.Task[None]) -> None:
        self._giving_up.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a called run could not be asked to stop: %r", error)

    async def _born(
        self, bear: Callable[[ActiveRun, str, object], T], tool: str, name: str, input: object
    ) -> T:
        parent, token = self.parent, self._guard.token
        try:
            return await patiently(
                partial(self._begun, bear, parent, name, input),
                go_on=partial(token.admit, tool, name, in_cleanup=False),
                may_repeat=lambda error: isinstance(error, NothingWritten),
            )
        except ParentIsStopping:
            await self._database.run(stops.refresh_claim, parent)
            token.refuse(tool, name)
        except InputTooLarge as error:
            raise _TooLarge(str(error)) from error

    async def _begun(self, bear: Callable[[ActiveRun, str, object], T], *arguments: Any) -> T:
        """Call ``bear`` in a database thread; once it has begun, wait for it come what may.

        A caller that is cancelled meanwhile would otherwise leave a committed run behind that
        nobody executes. It gets the child all the same, and gives it up.
        """
        begun = self._database.submit(bear, *arguments)
        waiting = asyncio.wrap_future(begun)
        while not waiting.done():
            try:
                await asyncio.wait((waiting,))
            except asyncio.CancelledError:
                if begun.cancel():
                    raise
        return waiting.result()


class _Called:
    """A called run: an ``agents.environment.ChildRun``."""

    def __init__(
        self, caller: AgentCaller, entry: ActiveRun, task: asyncio.Task[Ended | None]
    ) -> None:
        self.id = str(entry.id)
        self._caller = caller
        self._entry = entry
        self._task = task

    async def wait(self) -> ChildEnd:
        ended = await asyncio.shield(self._task)
        match ended:
            case Ended(status=Status.SUCCESS | Status.ERROR | Status.STOPPED as status):
                return ChildEnd(cast(Any, status.value), ended.result, ended.error)
            case _:  # the claim was lost, and the caller's with it
                return ChildEnd("error", error={"code": "worker_lost", "message": "claim lost"})

    def give_up(self) -> None:
        # A shutdown reaches it through its token, and is nobody's wish: the first child to fail by
        # it makes a TaskGroup give up the others.
        if not self._entry.token.stopped:
            self._caller.give_up(self._entry.id)


class _TooLarge(AgentError):
    """The input of a called agent has too many bytes."""

    code = InputTooLarge.code
