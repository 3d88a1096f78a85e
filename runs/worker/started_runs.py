"""Runs that were started from this process and may be on any worker: how they end.

The database is the truth: while somebody waits, it is asked about all of them together, twice a
second. News of this process, and messages from the worker that a run was on, only make that look
come sooner. A run that nobody has begun while its caller waits for it is *adopted*: begun in the
caller's process, past the queue, as a called one is. So a caller never waits for its own slot.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from django.db import DatabaseError, InterfaceError

from agents import registry
from agents.cancellation import CancelToken, StopCause
from agents.environment import ChildEnd
from agents.exceptions import AgentError
from agents.trace import CallInfo, Event
from runs.actions import leases, recovery, stopping
from runs.actions.stopping import stop_children
from runs.db.threads import DatabaseThreads
from runs.db.transactions import patiently
from runs.delivery import notify, stops
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import LeaseLost, RunAlreadyFinished
from runs.models import MAX_REASON_LENGTH, RunRecord, StopVia
from runs.status import TERMINAL, Status

__all__ = ["StartedRun", "StartedRuns", "ask_to_stop", "is_leaving"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.4
ADOPT_SECONDS = 1.0  # how long a run may have been queued that its caller waits for
LEAVE_SECONDS = 5.0  # for children, when their caller's process goes away
MOST_ADOPTED = 4  # of one caller at a time: they take no slots, and others may have free ones
CHUNK = 500  # runs in one query

Row = tuple[uuid.UUID, str, Any, Any]  # id, status, result, error
Begin = Callable[[RunRecord, ActiveRun], "asyncio.Task[Any]"]


class StartedRun:
    """One run that was started: an ``agents.environment.StartedRun``. For the agents' loop."""

    def __init__(self, runs: StartedRuns, caller: ActiveRun, run: RunRecord) -> None:
        self.id = str(run.pk)
        self.run = run.pk
        self.agent = run.agent
        self.caller = caller
        self.end: ChildEnd | None = None
        self.queued_at = time.monotonic()
        self.is_running = False
        self.is_adopted = False
        #: Who waits, and whether also while the process goes away.
        self.waiting: dict[asyncio.Future[ChildEnd | None], bool] = {}
        self._runs = runs

    async def wait(self) -> ChildEnd | None:
        return await self._runs.wait(self)

    async def ask_to_stop(self, reason: str) -> None:
        if self.end is None:
            await self._runs.ask_to_stop(self, reason)


async def ask_to_stop(
    database: DatabaseThreads, caller: ActiveRun, run: uuid.UUID, reason: str
) -> None:
    """Ask a run to stop on its caller's behalf; does nothing if it is over.

    Nobody else would, so it is repeated while the database is away.

    Raises:
        LeaseLost: the caller's lease is over, and whoever has the claim next sees to it.
    """

    def ask() -> None:
        try:
            stopping.request_stop(
                run,
                via=StopVia.PARENT,
                reason=reason.replace("\0", "\ufffd")[:MAX_REASON_LENGTH],
                check_permission=False,
            )
        except RunAlreadyFinished:
            logger.debug("run %s was over when its caller asked it to stop", run)

    def go_on() -> None:
        if caller.token.lease.is_over:
            raise LeaseLost("the lease was over before a sub-agent could be asked to stop")

    await patiently(partial(database.run, ask), go_on=go_on)


class StartedRuns:
    """All runs that were started from one executor, and are waited for. A ``live.Listener``.

    Args:
        loop: the agents' loop, on which everything but the listening happens.
        begin: begins with an adopted run.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, database: DatabaseThreads, begin: Begin
    ) -> None:
        self._loop = loop
        self._database = database
        self._begin = begin
        self._running: dict[ActiveRun, dict[uuid.UUID, StartedRun]] = {}  # by caller
        self._awaited: dict[uuid.UUID, StartedRun] = {}
        self._adopted: Counter[uuid.UUID] = Counter()  # by caller
        self._freed_at: dict[ActiveRun, float] = {}  # by caller: when one of its last left a slot
        self._hinted: set[uuid.UUID] = set()
        self._hint = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self._is_failing = False

    def add(self, caller: ActiveRun, run: RunRecord) -> StartedRun:
        """Take on a run that ``caller`` has started, until both are over."""
        if caller not in self._running:
            self._running[caller] = {}
            caller.token.add_callback(partial(self._hear_of_stop, caller))
        child = self._running[caller][run.pk] = StartedRun(self, caller, run)
        return child

    async def wait(self, child: StartedRun, *, to_the_end: bool = False) -> ChildEnd | None:
        """Return how a run has ended, once it has; None when the caller's process goes away.

        With ``to_the_end`` also then.
        """
        if child.end is not None or (is_leaving(child.caller) and not to_the_end):
            return child.end
        future: asyncio.Future[ChildEnd | None] = self._loop.create_future()
        child.waiting[future] = to_the_end
        self._awaited[child.run] = child
        self._notice(child.run)  # it may be over already
        if self._polling is None:
            notify.add_listener(self)
            # In a context of its own: it is no task of the agent that happens to wait first.
            self._polling = self._loop.create_task(
                self._poll_while_awaited(), context=contextvars.Context()
            )
        try:
            return await future
        finally:
            child.waiting.pop(future, None)
            if not child.waiting:
                self._awaited.pop(child.run, None)

    async def ask_to_stop(self, child: StartedRun, reason: str) -> None:
        await ask_to_stop(self._database, child.caller, child.run, reason)

    async def end_attempt(self, caller: ActiveRun) -> None:
        """Stop what ``caller`` has started, whose process goes away, and wait for that a while."""
        going_on = self._running.pop(caller, {}).values()
        self._freed_at.pop(caller, None)
        is_cut = caller.guard is not None and caller.guard.host_cancelled
        if not going_on or not is_leaving(caller) or is_cut:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.gather(*[self.wait(child, to_the_end=True) for child in going_on])
        except (TimeoutError, asyncio.CancelledError):
            logger.info("run %s goes away before those that it has started", caller.id)

    def poll(self, runs: Iterable[uuid.UUID]) -> None:
        """Poll soon whether these are over. From any thread."""
        for run in runs:
            self.changed(run, run)

    # A live.Listener:

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if run in self._awaited:
            self._loop.call_soon_threadsafe(self._notice, run)

    def event(self, event: Event) -> None: ...

    def text(self, run: str, agent: str, call: str, text: str) -> None: ...

    def activity(self, run: str, in_flight: list[CallInfo]) -> None: ...

    def _hear_of_stop(self, caller: ActiveRun, token: CancelToken) -> None:
        """Let nobody wait any longer for what a caller has started whose process goes away."""
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
        """Look as long as somebody waits."""
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
                self._tell(child, rows.get(child.run, _GONE))
            going_on = [child for child in children if child.end is None]
            for child in going_on:
                child.is_running = rows[child.run][1] == Status.RUNNING
            for child in going_on:  # behind all marks: what becomes of one is up to the others
                if not child.is_running and self._may_adopt(child):
                    await self._adopt(child)
            for caller in {child.caller for child in going_on}:
                if is_leaving(caller):
                    await self._stop_children(caller)
            self._is_failing = False
        except Exception as error:
            if not isinstance(error, DatabaseError | InterfaceError):
                logger.exception("runs that were started can't be looked at")
            elif not self._is_failing:
                name = type(error).__name__
                logger.warning("runs that were started can't be looked at (%s)", name)
            self._is_failing = True
            await asyncio.sleep(POLL_SECONDS)

    async def _refresh_callers(
        self, over: Iterable[StartedRun], rows: dict[uuid.UUID, Row]
    ) -> None:
        """Let a caller meet its own stop first, if its child was stopped with it.

        The message to the child's worker may have been quicker than the one to ours.
        """
        stopped = (child for child in over if rows.get(child.run, _GONE)[1] == Status.STOPPED)
        for caller in {child.caller for child in stopped if not child.caller.token.stopped}:
            await self._database.run(stops.refresh_claim, caller)

    async def _stop_children(self, caller: ActiveRun) -> None:
        reason, here = recovery.CALLER_LOST, caller.worker
        await self._database.run(stop_children, caller.id, reason=reason, but_on=here)

    def _tell(self, child: StartedRun, row: Row) -> None:
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
        """Tell whether anything that ``caller`` waits for is running, or about to.

        Between two that come in turn by the queue there is a moment when none of them is.
        """
        if time.monotonic() - self._freed_at.get(caller, -math.inf) < ADOPT_SECONDS:
            return True
        return any(c.is_running for c in self._awaited.values() if c.caller is caller)

    async def _adopt(self, child: StartedRun) -> None:
        adopted = await self._database.run(leases.adopt, child.caller, child.run)
        if adopted is None:
            return  # somebody was faster by a moment
        caller = child.caller.id
        self._adopted[caller] += 1

        def on_end(_: asyncio.Task[Any]) -> None:
            self._adopted[caller] -= 1
            if not self._adopted[caller]:
                del self._adopted[caller]
            self._hinted.update(self._awaited)  # another one may be adopted now
            self._hint.set()

        child.is_running = child.is_adopted = True
        self._begin(*adopted).add_done_callback(on_end)


#: A record that was deleted.
_GONE: Row = (
    uuid.UUID(int=0),
    Status.ERROR,
    None,
    {"code": "worker_lost", "type": "WorkerLost", "message": "Its record is gone."},
)


def _is_limited(agent: str) -> bool:
    """Tell whether only so many runs of an agent may go on: then a queue is nothing unusual."""
    try:
        return registry.get(agent).options.max_concurrent is not None
    except AgentError:
        return False


def is_leaving(caller: ActiveRun) -> bool:
    """Tell whether a run is being ended because its process goes away."""
    is_cut = caller.guard is not None and caller.guard.host_cancelled
    return caller.token.cause is StopCause.SHUTDOWN or is_cut


def _read(ids: list[uuid.UUID]) -> dict[uuid.UUID, Row]:
    rows: dict[uuid.UUID, Row] = {}
    for start in range(0, len(ids), CHUNK):
        runs = RunRecord.objects.filter(pk__in=ids[start : start + CHUNK])
        rows |= {row[0]: row for row in runs.values_list("pk", "status", "result", "error")}
    return rows
