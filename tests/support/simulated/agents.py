"""Agents that do one step at a time, when the test says so, under the real guard and token."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.db import OperationalError

from agents import AgentError, AgentStopped, cleanup, registry
from agents.cancellation import StopMode, bind_token
from agents.environment import ChildEnd
from agents.exceptions import RunIsOver
from agents.guard import Call, Guard
from agents.runtime import _outcome
from agents.tools.agents.handle import AgentHandle, result_of
from agents.trace import Trace
from runs.actions import limit_stops, starting
from runs.actions.finishing import Ended
from runs.db.transactions import NothingWritten
from runs.delivery import local_runs, stops
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import LeaseLost, ParentIsStopping
from runs.models import RunRecord
from runs.status import TERMINAL
from runs.worker.agent_caller import GAVE_UP
from runs.worker.executor import _Job
from runs.worker.started_runs import is_leaving

from .clock import CLOCK
from .seen import SEEN
from .store import WatchedStore

if TYPE_CHECKING:
    from .processes import Process

__all__ = ["Attempt"]

T = TypeVar("T")

KEYS = ("one", "two")
MOST_DEEP = 2
MOST_CHILDREN = 2  # of each kind


class Line:
    """Code of an agent that runs concurrently with its other code, from one wait to the next."""

    def __init__(self, work: Coroutine[Any, Any, Any], context: Context) -> None:
        self._work = work
        self._context = context
        self._waits_for: asyncio.Future[Any] | None = None

    @property
    def can_continue(self) -> bool:
        return self._waits_for is None or self._waits_for.done()

    def resume(self, *, cut: bool = False) -> bool:
        """Run to the next wait, or deliver a cancellation; True when the code has ended."""
        try:
            if cut:
                self._waits_for = self._context.run(self._work.throw, asyncio.CancelledError())
            else:
                self._waits_for = self._context.run(self._work.send, None)
        except StopIteration:
            return True
        return False

    def drop(self) -> None:
        """End with the process, not when the garbage collector runs."""
        self._context.run(self._work.close)


class Attempt:
    """An agent's code, and how far it has come.

    Attributes:
        lines: code that runs concurrently: waits for other agents, uses of the data store.
        called: the agents that it has called, each with the call that waits for it.
        handles: the agents that it has started.
        phase: new, running, settling (its code has ended, and the agents that it started are
            awaited), returning (its ending is to be written), written (or dropped, if the claim
            was lost).
    """

    def __init__(self, process: Process, record: RunRecord, entry: ActiveRun) -> None:
        self.process = process
        self.entry = entry
        self.job = _Job.of(record)
        self.definition = registry.get(record.agent)
        self.guard = Guard(entry.token, self._trace())
        self.context = Context()
        self.context.run(bind_token, entry.token)
        self.store = WatchedStore(self.job.owner_id, process.database, entry)
        self.calls: list[Call] = []
        self.lines: list[Line] = []
        self.called: dict[Attempt, Call] = {}
        self.handles: list[AgentHandle] = []
        self.parent: Attempt | None = None
        self.takes_slot = entry.token.parent is None
        self.phase = "new"
        self.is_refused = False  # AgentStopped was raised in the agent's code
        self.error: BaseException | None = None  # the exception that left the agent's code
        self.kind: str | None = None
        self.ended: Ended | None = None
        self.on_end: list[Callable[[Any], None]] = []
        SEEN["attempts"] += 1
        process.attempts.append(self)
        process.history.append(self)

    def _trace(self) -> Trace:
        job = self.job
        return Trace(
            str(self.entry.id),
            job.agent,
            self.process.recorder,
            depth=job.depth,
            last_seq=job.last_seq,
            usage=job.usage,
            alive_at=CLOCK.monotonic(),
        )

    def __repr__(self) -> str:
        facts = [
            f"{self.job.agent} {self.entry.id}/{self.entry.attempt} of {self.entry.worker}",
            f"{self.phase} as {self.kind}, {len(self.calls)} calls, {len(self.lines)} lines",
            f"called {list(self.called)}, started {[handle.run for handle in self.handles]}",
            f"{self.entry.token!r}, refused {self.is_refused}",
        ]
        return f"<{'; '.join(facts)}>"

    def drop(self) -> None:
        """End with the process."""
        for line in self.lines:
            line.drop()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """As of the task in whose place it is."""
        self.on_end.append(callback)

    @property
    def may_step(self) -> bool:
        return self.phase in ("new", "running", "settling")

    @property
    def is_abandoned(self) -> bool:
        """Whether its record is over regardless of it, and its process knows."""
        return self.entry.token.mode is StopMode.ABANDON

    @property
    def is_over(self) -> bool:
        """Whether the agent's own code has ended."""
        return self.phase not in ("new", "running")

    def step(self, chance: random.Random) -> None:
        """Do the next step, one of those that are possible."""
        for child in [child for child in self.called if child.is_abandoned]:
            child.parent = None  # it may never come back, and is over for its caller
            self._has_called(child, ChildEnd("stopped"))
        if self.phase == "new":
            self._start()
        elif self.guard.host_cancelled and self.lines:
            self._continue_line(self.lines[0], cut=True)
        elif self.phase == "settling":
            self._settle(chance)
        elif self.process.is_winding_down:
            self._wind_down(chance)
        else:
            chance.choice(self._choices(chance))()

    def _choices(self, chance: random.Random) -> list[Callable[[], None]]:
        able = [line for line in self.lines if line.can_continue]
        choices: list[Callable[[], None]] = [self._log, lambda: self._return(chance)]
        choices += [lambda line=line: self._continue_line(line) for line in able] * 2  # type: ignore[misc]
        if self.calls:
            choices += [self._end_call] * 3
        if self.handles:
            choices.append(lambda: self._leave_or_stop(chance.choice(self.handles), chance))
        if self.is_refused and chance.random() < 0.3:
            choices.append(self._clean_up)
        if not self.is_refused or chance.random() < 0.3:  # some agents swallow the stop
            choices += [
                self._start_call,
                self._poll,
                lambda: self._use_store(chance),
                lambda: self._call_agent(chance),
                lambda: self._give_up(chance),
                lambda: self._start_agent(chance),
                lambda: self._wait(chance),
            ]
        return choices

    def _wind_down(self, chance: random.Random) -> None:
        able = [line for line in self.lines if line.can_continue]
        if self.calls:
            self._end_call()
        elif able:
            self._continue_line(able[0])
        else:
            self._return(chance)

    # What ``Executor._execute`` and ``run_agent`` do before an agent's first line.

    def _start(self) -> None:
        entry, guard, recorder = self.entry, self.guard, self.process.recorder
        recorder.open(entry, guard.trace)
        entry.guard = guard
        entry.token.add_callback(lambda _: entry.log_why())
        entry.token.add_callback(lambda _: recorder.activity(guard.trace))
        if self.job.stop is not None:
            entry.deliver(self.job.stop)
        self.phase = "running"
        guard.has_begun = True
        guard.trace.emit("agent_start", {"title": self.definition.title})
        self._guarded(lambda: guard.token.admit("agent", self.job.agent, in_cleanup=False))

    # What an agent may do.

    def _log(self) -> None:
        self.guard.trace.emit("log", {"message": "a line"}, source="agent")

    def _poll(self) -> None:
        if self.guard.token.stopped:  # should_stop() returned True
            self.guard.token.observe("should_stop")

    def _start_call(self) -> None:
        call = self.guard.call("http", "GET somewhere", method="GET")
        if self._starts(call):
            self.calls.append(call)

    def _end_call(self) -> None:
        self.calls.pop(0).finish()

    def _use_store(self, chance: random.Random) -> None:
        key, value = chance.choice(KEYS), f"{self.entry.id}/{self.entry.attempt}"
        store = self.store
        uses: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "set": lambda: store.set_many("default", {key: value}, None),
            "set_many": lambda: store.set_many("default", dict.fromkeys(KEYS, value), None),
            "delete": lambda: store.delete_many("default", [key]),
            "clear": lambda: store.clear("default"),
            "get_all": lambda: store.get_all("default"),
        }
        name = chance.choice([*uses, "set"])

        async def use() -> None:
            call = self.guard.call(f"data_store.{name}", "default", namespace="default")
            with _Watched(self, call):
                await uses[name]()

        self._start_line(use())

    def _clean_up(self) -> None:
        """Save something while the stop is in progress."""

        async def save() -> None:
            with cleanup(5), self.guard.call("data_store.set", "default", namespace="default"):
                await self.store.set_many("default", {"saved": str(self.entry.id)}, None)

        self._start_line(save())

    def _call_agent(self, chance: random.Random) -> None:
        if self.job.depth >= MOST_DEEP or len(self.called) >= MOST_CHILDREN:
            return
        call = self.guard.call("agents.call", "child", in_cleanup=False)
        if not self._starts(call):
            return
        try:
            name = chance.choice(["plain", "again", "brief"])
            record, entry = self._insert(starting.start_child, name)
        except ParentIsStopping:
            self._is_refused_a_child("agents.call")
            call.finish()
            return
        except BaseException:
            call.finish()
            raise
        call.data["run"] = str(record.pk)
        child = Attempt(self.process, record, entry)
        child.parent = self
        self.called[child] = call

    def _give_up(self, chance: random.Random) -> None:
        """Stop waiting for a called agent; the call ends with it all the same."""
        if self.called and chance.random() < 0.3:
            child = chance.choice(list(self.called)).entry
            if not child.token.stopped:
                self.process.asked.add(child.id)
                work = self.process.started.ask_to_stop(self.entry, child.id, GAVE_UP)
                self._start_line(work)

    def _start_agent(self, chance: random.Random) -> None:
        if self.job.depth >= MOST_DEEP or len(self.handles) >= MOST_CHILDREN:
            return
        call = self.guard.call("agents.start", "child", in_cleanup=False)
        if not self._starts(call):
            return
        name = chance.choice(["plain", "again", "limited", "hasty", "brief", "silent"])
        try:
            record = self._insert(starting.queue_child, name)
        except ParentIsStopping:
            self._is_refused_a_child("agents.start")
            return
        finally:
            call.finish()
        call.data["run"] = str(record.pk)
        child = self.process.started.add(self.entry, record)
        self.handles.append(AgentHandle(self.guard, name, child))

    def _insert(self, insert: Callable[..., T], name: str) -> T:
        """As ``AgentCaller._insert``."""
        id = CLOCK.make_id()
        try:
            return insert(self.entry, name, {}, id)
        except NothingWritten:
            raise
        except OperationalError:
            SEEN["a start without an answer"] += 1
            self.process.started.add_unanswered(self.entry, id, name)
            self.process.asked.add(id)
            raise

    def _is_refused_a_child(self, tool: str) -> None:
        stops.refresh_claim(self.entry)
        self._guarded(lambda: self.guard.token.refuse(tool, "child"))

    def _wait(self, chance: random.Random) -> None:
        if self.handles:
            self._start_line(chance.choice(self.handles).wait())

    def _leave_or_stop(self, handle: AgentHandle, chance: random.Random) -> None:
        if chance.random() < 0.5:
            handle.leave()
        elif chance.random() < 0.5:
            self.process.asked.add(uuid.UUID(handle.run))
            mode = chance.choice([*["graceful"] * 3, "abort", "abandon"])
            self._start_line(handle.stop("not needed", mode=mode))

    def _start_line(self, work: Coroutine[Any, Any, Any]) -> None:
        line = Line(work, self.context.copy())
        self.lines.append(line)
        self._continue_line(line)

    def _continue_line(self, line: Line, *, cut: bool = False) -> None:
        try:
            if line.resume(cut=cut):
                self.lines.remove(line)
        except AgentStopped:
            self.lines.remove(line)
            self.is_refused = True
        except (AgentError, LeaseLost, OperationalError):  # a cancellation that the code has caught
            self.lines.remove(line)
        except asyncio.CancelledError as error:
            self.lines.remove(line)
            self.error = error

    def _starts(self, call: Call) -> bool:
        was_stopped = self.guard.token.stopped
        if not self._guarded(call.start):
            return False
        self.assert_may_call(was_stopped)
        return True

    def _guarded(self, admit: Callable[[], Any]) -> bool:
        try:
            admit()
        except (AgentStopped, RunIsOver):
            self.is_refused = True
            return False
        return True

    def assert_may_call(self, was_stopped: bool) -> None:
        assert not was_stopped, "a call has started after the acknowledgement"
        if self.process.keeps_time:
            is_covered = self.store.is_covered() or self.store.is_abandoned()
            assert is_covered, "a call has started without a live lease"
        deadline_at = self.entry.deadline_at
        assert deadline_at is None or CLOCK.time <= deadline_at, "a call after the deadline"

    # The end, as in ``run_agent`` and ``Executor._execute``.

    def _return(self, chance: random.Random) -> None:
        """End the agent's code, if it waits for nothing that still runs."""
        if self.calls or self.called or self.lines:
            return
        if self.is_refused and chance.random() < 0.7:
            self.error = self.error or AgentStopped("the token observed it before")
        elif chance.random() < 0.2:
            self.error = self.error or ValueError("code may do that")
        self.guard.close()
        self.phase = "settling"
        self._start_line(self.process.started.settle_unanswered(self.entry))
        for handle in self.handles:
            if handle._end is None:
                self.process.asked.add(uuid.UUID(handle.run))
                self._start_line(handle._settle())

    def _settle(self, chance: random.Random) -> None:
        able = [line for line in self.lines if line.can_continue]
        if able:
            self._continue_line(chance.choice(able))
        elif not self.lines and not self._waits_for_started(chance):
            self._end()

    def _waits_for_started(self, chance: random.Random) -> bool:
        """As ``StartedRuns.end_attempt``: an attempt whose process shuts down waits a while."""
        if not is_leaving(self.entry) or self.guard.host_cancelled or chance.random() < 0.3:
            return False
        runs = [handle.run for handle in self.handles if handle._end is None]
        return RunRecord.objects.active().filter(pk__in=runs).exists()

    def _end(self) -> None:
        self.process.started._running.pop(self.entry, None)
        self.process.started._freed_at.pop(self.entry, None)
        value = f"attempt {self.entry.attempt}"
        outcome = _outcome(self.definition, self.guard, value, self.error)
        token = self.entry.token
        is_late = token.has_reached_deadline or token.is_overdue
        is_unasked = outcome.kind in ("stopped", "interrupted") and self.entry.stop is None
        if is_late and is_unasked and not token.lease.is_over:
            limit_stops.stop_at_deadline(self.entry)  # if it fails, this step is repeated
        self.phase = "returning"
        self.kind = outcome.kind
        self.process.recorder.end(self.guard.trace, outcome, self._on_written)

    def _on_written(self, ended: Ended | None) -> None:
        self.phase = "written"
        self.ended = ended
        local_runs.remove(self.entry)
        self.process.attempts.remove(self)
        if self.is_abandoned:
            self.process.left.append(self.entry)
        for callback in self.on_end:
            callback(self)
        if self.parent is not None:
            self.parent._has_called(self, _child_end(self.ended))

    def _has_called(self, child: Attempt, end: ChildEnd) -> None:
        """Learn how a called agent has ended: ``AgentClient.call``."""
        call = self.called.pop(child)
        call.data["status"] = end.status
        try:
            result_of(self.guard, "agents.call", child.job.agent, str(child.entry.id), end)
        except AgentStopped as error:
            self.is_refused = True
            call.finish(error)
        except AgentError as error:
            call.finish(error)
        else:
            call.finish()


def _child_end(ended: Ended | None) -> ChildEnd:
    """As ``_Child.wait``."""
    if ended is None or ended.status not in TERMINAL:
        return ChildEnd("error", error={"code": "worker_lost", "message": "claim lost"})
    return ChildEnd(cast(Any, ended.status.value), ended.result, ended.error)


class _Watched:
    """A guarded call of a line, compared with what an omniscient observer knows."""

    def __init__(self, attempt: Attempt, call: Call) -> None:
        self._attempt = attempt
        self._call = call

    def __enter__(self) -> None:
        was_stopped = self._attempt.guard.token.stopped
        self._call.__enter__()
        self._attempt.assert_may_call(was_stopped)

    def __exit__(self, *error: Any) -> None:
        self._call.__exit__(*error)
