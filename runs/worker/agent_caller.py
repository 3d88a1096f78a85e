"""How a run calls and starts others: an ``agents.environment.AgentCaller`` on the records.

A called run starts at once, in its caller's process and under its claim. A started run is queued;
``started_runs`` waits for it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from django.db import Error

from agents import exceptions
from agents.cancellation import CancelToken, StopMode
from agents.environment import ChildEnd
from agents.exceptions import AgentError, InvalidInput
from agents.guard import Guard, wait_out
from runs.actions import starting
from runs.actions.finishing import Ended, worker_lost
from runs.db.threads import DatabaseThreads
from runs.db.transactions import NothingWritten, is_away, patiently, refusal_text
from runs.delivery import stops
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import InputTooLarge, ParentIsStopping, QuotaExceeded
from runs.models import RunRecord, uuid7
from runs.status import Status
from runs.telemetry.traceparent import current_traceparent

from .started_runs import StartedRun, StartedRuns

__all__ = ["AgentCaller"]

T = TypeVar("T")
Start = Callable[[RunRecord, ActiveRun], "asyncio.Task[Ended | None]"]
GAVE_UP = "its caller does not wait for it any longer"


class AgentCaller:
    """Calls and starts runs below one run. For the agents' loop.

    Args:
        execute: starts the task of a called run.
    """

    __slots__ = ("_database", "_execute", "_guard", "_started", "parent")

    def __init__(
        self,
        parent: ActiveRun,
        guard: Guard,
        database: DatabaseThreads,
        started: StartedRuns,
        execute: Start,
    ) -> None:
        self.parent = parent
        self._guard = guard
        self._database = database
        self._started = started
        self._execute = execute

    async def start(self, name: str, input: object) -> _Called:
        record, entry = await self._insert(starting.start_child, "agents.call", name, input)
        return _Called(self, entry, self._execute(record, entry))

    async def queue(self, name: str, input: object) -> StartedRun:
        record = await self._insert(starting.queue_child, "agents.start", name, input)
        return self._started.add(self.parent, record)

    def give_up(self, run: uuid.UUID) -> None:
        """Ask a called run to stop because its caller does not wait for it any longer."""
        self._started.give_up(self.parent, run, GAVE_UP)

    async def _insert(
        self,
        insert: Callable[[ActiveRun, str, object, uuid.UUID, str | None], T],
        tool: str,
        name: str,
        input: object,
    ) -> T:
        parent, token = self.parent, self._guard.token
        id = uuid7()
        traceparent = current_traceparent() or parent.traceparent
        try:
            return await patiently(
                partial(self._finish_insert, insert, parent, name, input, id, traceparent),
                before_retry=partial(token.admit, tool, name, in_cleanup=False),
                may_repeat=lambda error: isinstance(error, NothingWritten),
            )
        except ParentIsStopping:
            await self._database.run(stops.refresh_claim, parent)
            token.refuse(tool, name)
        except InputTooLarge as error:
            raise _TooLarge(str(error)) from error
        except QuotaExceeded as error:
            message = f"The agent {name} can't be started. {error}"
            raise exceptions.QuotaExceeded(
                message, code=error.code, used=error.used, allowed=error.allowed
            ) from error
        except Error as error:
            if is_away(error):
                self._started.add_unanswered(parent, id, name)
                raise
            why = refusal_text(error)
            raise InvalidInput(f"the database refused the input of {name!r}: {why}") from error

    async def _finish_insert(
        self,
        insert: Callable[[ActiveRun, str, object, uuid.UUID, str | None], T],
        *arguments: Any,
    ) -> T:
        """Call ``insert`` in a database thread; once it runs, await its end despite cancellation.

        Otherwise a caller that is cancelled meanwhile would leave a committed run that no process
        executes. With this it gets the child, and gives it up.
        """
        inserting = self._database.submit(insert, *arguments)
        waiting = asyncio.wrap_future(inserting)
        await wait_out(waiting, inserting.cancel)
        return waiting.result()  # CancelledError, if it had not started


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
        await self._ended_or_abandoned()
        if not self._task.done():  # its record is final, though its code may never end
            return ChildEnd("stopped")
        ended = self._task.result()
        match ended:
            case Ended(status=Status.SUCCESS | Status.ERROR | Status.STOPPED as status):
                return ChildEnd(cast(Any, status.value), ended.result, ended.error)
            case _:  # the claim was lost, and with it the caller's
                return ChildEnd("error", error=worker_lost("Its caller lost its claim."))

    async def _ended_or_abandoned(self) -> None:
        loop = asyncio.get_running_loop()
        is_enough = asyncio.Event()

        def on_stop(token: CancelToken) -> None:
            if token.mode is StopMode.ABANDON:
                loop.call_soon_threadsafe(is_enough.set)

        def on_end(_: asyncio.Task[Any]) -> None:
            is_enough.set()

        self._task.add_done_callback(on_end)
        self._entry.token.add_callback(on_stop)
        try:
            await is_enough.wait()
        finally:
            self._task.remove_done_callback(on_end)
            self._entry.token.remove_callback(on_stop)

    def give_up(self) -> None:
        # Not after a shutdown: it reaches the child through its token, and is no stop request. The
        # first child that fails by it makes a TaskGroup give up the others.
        if not self._entry.token.stopped:
            self._caller.give_up(self._entry.id)


class _TooLarge(AgentError):
    """The input of a called agent has too many bytes."""

    code = InputTooLarge.code
