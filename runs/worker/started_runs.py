"""Runs that agents of this process have started, on any worker: wait for them, stop them.

While callers wait, one query polls all awaited runs twice a second. Updates of this process, and
messages of the worker that executed a run, only make the next poll come sooner. A run that no
worker has claimed while its caller waits is *adopted*: it starts in the caller's process, past the
queue, as a called run does. So a caller never waits for its own slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from django.db import Error

from agents import registry
from agents.cancellation import CancelToken, StopCause, StopMode
from agents.environment import ChildEnd
from agents.exceptions import AgentError
from agents.trace import Event
from agents.wire import CallOnWire
from runs.actions import leases, recovery, stopping
from runs.actions.finishing import worker_lost
from runs.actions.stopping import stop_children
from runs.db.connecting import RETRY_SECONDS
from runs.db.threads import DatabaseThreads
from runs.db.transactions import patiently
from runs.delivery import notify, stops
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import LeaseLost, RunAlreadyFinished
from runs.models import MAX_REASON_LENGTH, RunRecord, StopVia
from runs.status import TERMINAL, Status

__all__ = ["StartedRun", "StartedRuns", "is_leaving"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.4
ADOPT_SECONDS = 1.0  # how long an awaited run is queued before its caller may adopt it
LEAVE_SECONDS = 5.0  # for children to end, when their caller's process shuts down
MOST_ADOPTED = 4  # by one caller at a time: other workers may have capacity for the rest
CHUNK = 500  # runs in one query
NOT_ANSWERED = "its caller does not know whether it was started"

Row = tuple[uuid.UUID, str, Any, Any]  # id, status, result, error
Start = Callable[[RunRecord, ActiveRun], "asyncio.Task[Any]"]


class StartedRun:
    """One started run: an ``agents.environment.StartedRun``. For the agents' loop."""

    def __init__(self, runs: StartedRuns, caller: ActiveRun, run: uuid.UUID, agent: str) -> None:
        self.id = str(run)
        self.run = run
        self.agent = agent
        self.is_answered = True
        self.caller = caller
        self.end: ChildEnd | None = None
        self.queued_at = time.monotonic()
        self.is_running = False
        self.is_adopted = False
        #: The waits for its end; the value says whether a wait outlasts a shutdown.
        self.waiting: dict[asyncio.Future[ChildEnd | None], bool] = {}
        self._runs = runs

    async def wait(self) -> ChildEnd | None:
        return await self._runs.wait(self)

    async def ask_to_stop(self, reason: str, mode: StopMode = StopMode.GRACEFUL) -> None:
        if self.end is None:
            await self._runs.ask_to_stop(self.caller, self.run, reason, mode)


class StartedRuns:
    """All runs that the agents of one executor have started. A ``notify.Listener``.

    Args:
        loop: the agents' loop. Only the listener's methods and ``poll`` are called elsewhere.
        execute: starts the task of an adopted run.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, database: DatabaseThreads, execute: Start
    ) -> None:
        self._loop = loop
        self._database = database
        self._execute = execute
        self._running: dict[ActiveRun, dict[uuid.UUID, StartedRun]] = {}  # by caller
        self._awaited: dict[uuid.UUID, StartedRun] = {}
        self._adopted: Counter[uuid.UUID] = Counter()  # by caller
        #: By caller: when one of its runs last left a slot.
        self._freed_at: dict[ActiveRun, float] = {}
        self._asking: set[asyncio.Task[None]] = set()  # the loop alone keeps no task alive
        self._hinted: set[uuid.UUID] = set()
        self._hint = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self._is_failing = False

    def add(self, caller: ActiveRun, run: RunRecord) -> StartedRun:
        """Add a run that ``caller`` has started."""
        return self._add(caller, run.pk, run.agent)

    def add_unanswered(self, caller: ActiveRun, run: uuid.UUID, agent: str) -> None:
        """Add a run that may exist: the database has not answered, and no code has its handle."""
        self._add(caller, run, agent).is_answered = False

    def _add(self, caller: ActiveRun, run: uuid.UUID, agent: str) -> StartedRun:
        if caller not in self._running:
            self._running[caller] = {}
            caller.token.add_callback(partial(self._on_stop, caller))
        child = self._running[caller][run] = StartedRun(self, caller, run, agent)
        return child

    async def wait(self, child: StartedRun, *, to_the_end: bool = False) -> ChildEnd | None:
        """Wait for the end of a run and return it; return None if the caller's process shuts down.

        With ``to_the_end`` wait through a shutdown.
        """
        if child.end is not None or (is_leaving(child.caller) and not to_the_end):
            return child.end
        future: asyncio.Future[ChildEnd | None] = self._loop.create_future()
        child.waiting[future] = to_the_end
        self._awaited[child.run] = child
        self._notice(child.run)  # it may be over already
        if self._polling is None:
            notify.add_listener(self)
            # In a context of its own: it is not a task of the agent that waits first.
            self._polling = self._loop.create_task(
                self._poll_while_awaited(), context=contextvars.Context()
            )
        try:
            return await future
        finally:
            child.waiting.pop(future, None)
            if not child.waiting:
                self._awaited.pop(child.run, None)

    async def ask_to_stop(
        self,
        caller: ActiveRun,
        run: uuid.UUID,
        reason: str,
        mode: StopMode = StopMode.GRACEFUL,
    ) -> None:
        """Ask a run to stop on its caller's behalf; do nothing if it is over.

        No other code would ask, so this is repeated while the database is away.

        Raises:
            LeaseLost: the caller's lease is over: the recovery of the caller stops the run.
        """

        def ask() -> None:
            try:
                stopping.request_stop(
                    run,
                    via=StopVia.PARENT,
                    mode=mode,
                    reason=reason[:MAX_REASON_LENGTH],
                    check_permission=False,
                )
            except (RunAlreadyFinished, RunRecord.DoesNotExist):  # perhaps removed long after
                logger.debug("run %s was over when its caller asked it to stop", run)

        def before_retry() -> None:
            if caller.token.lease.is_over:
                raise LeaseLost("the lease was over before a sub-agent could be asked to stop")

        await patiently(partial(self._database.run, ask), before_retry=before_retry)

    def give_up(self, caller: ActiveRun, run: uuid.UUID, reason: str) -> None:
        """Ask a run to stop because its caller does not wait for it any longer; don't wait."""
        # In a context of its own: it is not a task of the agent, and outlives the agent's call.
        asking = self._loop.create_task(
            self.ask_to_stop(caller, run, reason), context=contextvars.Context()
        )
        self._asking.add(asking)
        asking.add_done_callback(self._has_asked)

    def _has_asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("could not ask a called run to stop: %r", error)

    async def settle_unanswered(self, caller: ActiveRun) -> None:
        """Stop those runs of ``caller`` that no code knows of, and wait for them.

        It must not end before they do.
        """
        children = self._running.get(caller, {}).values()
        for child in [child for child in children if not child.is_answered]:
            with contextlib.suppress(LeaseLost):
                await child.ask_to_stop(NOT_ANSWERED)
                await self.wait(child)

    async def end_attempt(self, caller: ActiveRun) -> None:
        """Forget the runs of ``caller``; if its process shuts down, stop them and wait a while."""
        if caller in self._running:
            # A drain cancels the wait: the ending is to be written all the same.
            with contextlib.suppress(asyncio.CancelledError):
                await self.settle_unanswered(caller)
        children = self._running.pop(caller, {}).values()
        self._freed_at.pop(caller, None)
        if not children or not is_leaving(caller) or _is_cut(caller):
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.gather(*[self.wait(child, to_the_end=True) for child in children])
        except (TimeoutError, asyncio.CancelledError):
            logger.info("run %s ends here before the runs that it has started", caller.id)

    def poll(self, runs: Iterable[uuid.UUID]) -> None:
        """Poll soon whether these are over. From any thread."""
        for run in runs:
            self.changed(run, run)

    # A notify.Listener:

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if run in self._awaited:
            self._loop.call_soon_threadsafe(self._notice, run)

    def event(self, event: Event) -> None: ...

    def text(self, run: str, agent: str, call: str, text: str) -> None: ...

    def activity(self, run: str, in_flight: list[CallOnWire]) -> None: ...

    def _on_stop(self, caller: ActiveRun, token: CancelToken) -> None:
        """End the waits of a caller whose process shuts down."""
        if token.cause is StopCause.SHUTDOWN:
            self._loop.call_soon_threadsafe(self._leave, caller)

    # On the loop:

    def _notice(self, run: uuid.UUID) -> None:
        self._hinted.add(run)
        self._hint.set()

    def _leave(self, caller: ActiveRun) -> None:
        for child in list(self._awaited.values()):
            if child.caller is caller:
                for future, to_the_end in list(child.waiting.items()):
                    if not to_the_end and not future.done():
                        future.set_result(None)

    async def _poll_while_awaited(self) -> None:
        try:
            due = 0.0
            while self._awaited:
                now = self._loop.time()
                is_due = now >= due
                ids = set(self._awaited) if is_due else self._hinted & self._awaited.keys()
                if is_due:
                    due = now + POLL_SECONDS
                self._hinted.clear()
                self._hint.clear()
                await self._poll([self._awaited[id] for id in ids])
                await self._until_hinted(due - self._loop.time())
        finally:
            notify.remove_listener(self)
            self._polling = None

    async def _until_hinted(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._hint.wait()
        except TimeoutError:
            return

    async def _poll(self, children: list[StartedRun]) -> None:
        try:
            rows = await self._database.run(_read, [child.run for child in children])
            over = [child for child in children if rows.get(child.run, _GONE)[1] in TERMINAL]
            await self._refresh_callers(over, rows)
            for child in over:
                self._end(child, rows.get(child.run, _GONE))
            running = [child for child in children if child.end is None]
            for child in running:
                child.is_running = rows[child.run][1] == Status.RUNNING
            for child in running:  # in a second loop: _may_adopt reads is_running of all
                if not child.is_running and self._may_adopt(child):
                    await self._adopt(child)
            for caller in {child.caller for child in running}:
                if is_leaving(caller):
                    await self._stop_children(caller)
            self._is_failing = False
        except Exception as error:
            if not isinstance(error, Error):
                logger.exception("could not poll started runs")
            elif not self._is_failing:
                name = type(error).__name__
                logger.warning("could not poll started runs (%s), trying again", name)
            self._is_failing = True
            await asyncio.sleep(RETRY_SECONDS)

    async def _refresh_callers(
        self, over: Iterable[StartedRun], rows: dict[uuid.UUID, Row]
    ) -> None:
        """Trip the token of a caller stopped with its child, before the child's end is set.

        The message to the child's worker may have been faster than the message to this one.
        """
        stopped = (child for child in over if rows.get(child.run, _GONE)[1] == Status.STOPPED)
        for caller in {child.caller for child in stopped if not child.caller.token.stopped}:
            await self._database.run(stops.refresh_claim, caller)

    async def _stop_children(self, caller: ActiveRun) -> None:
        reason, here = recovery.CALLER_LOST, caller.worker
        await self._database.run(stop_children, caller.id, reason=reason, but_on=here)

    def _end(self, child: StartedRun, row: Row) -> None:
        _, status, result, error = row
        child.end = ChildEnd(cast(Any, status), result, error)
        if (siblings := self._running.get(child.caller)) is not None:
            siblings.pop(child.run, None)  # its result may be large
            if not child.is_adopted:
                self._freed_at[child.caller] = time.monotonic()
        for future in child.waiting:
            if not future.done():
                future.set_result(child.end)

    def _may_adopt(self, child: StartedRun) -> bool:
        caller = child.caller
        return (
            bool(child.waiting)
            and time.monotonic() - child.queued_at > ADOPT_SECONDS
            and self._adopted[caller.id] < MOST_ADOPTED
            and not caller.token.stopped
            and not caller.token.lease.is_over
            and not (_is_limited(child.agent) and self._is_progressing(caller))
        )

    def _is_progressing(self, caller: ActiveRun) -> bool:
        """Tell whether a run that ``caller`` waits for is running, or about to start.

        There is a moment between two runs from the queue when none of them is running.
        """
        if time.monotonic() - self._freed_at.get(caller, -math.inf) < ADOPT_SECONDS:
            return True
        return any(c.is_running for c in self._awaited.values() if c.caller is caller)

    async def _adopt(self, child: StartedRun) -> None:
        adopted = await self._database.run(leases.adopt, child.caller, child.run)
        if adopted is None:
            return  # another worker has claimed it, or it is over
        caller = child.caller.id
        self._adopted[caller] += 1

        def on_end(_: asyncio.Task[Any]) -> None:
            self._adopted[caller] -= 1
            if not self._adopted[caller]:
                del self._adopted[caller]
            self._hinted.update(self._awaited)  # another run may be adopted now
            self._hint.set()

        child.is_running = child.is_adopted = True
        self._execute(*adopted).add_done_callback(on_end)


#: A record that was deleted.
_GONE: Row = (uuid.UUID(int=0), Status.ERROR, None, worker_lost("Its record is gone."))


def _is_limited(agent: str) -> bool:
    """Tell whether an agent has a limit of runs: then waiting in the queue is normal."""
    try:
        return registry.get(agent).options.max_concurrent is not None
    except AgentError:
        return False


def is_leaving(caller: ActiveRun) -> bool:
    """Tell whether a run is being ended because its process shuts down."""
    return caller.token.cause is StopCause.SHUTDOWN or _is_cut(caller)


def _is_cut(caller: ActiveRun) -> bool:
    return caller.guard is not None and caller.guard.host_cancelled


def _read(ids: list[uuid.UUID]) -> dict[uuid.UUID, Row]:
    rows: dict[uuid.UUID, Row] = {}
    for start in range(0, len(ids), CHUNK):
        runs = RunRecord.objects.filter(pk__in=ids[start : start + CHUNK])
        rows |= {row[0]: row for row in runs.values_list("pk", "status", "result", "error")}
    return rows
