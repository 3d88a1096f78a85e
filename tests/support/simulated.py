"""Worker processes without processes: their memory, and real code that is run step by step.

A ``Process`` has the module globals of ``runs.active`` for itself, a real ``Worker`` whose threads
are never started, and a real ``Recorder``. In place of the executor's loop there are agents that
do one thing at a time, when they are told to (``Attempt``), behind the real guard and token. So a
process can be halted between any two steps, for ever (a crash) or for a while (a freeze).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from agents import registry
from agents.exceptions import AgentStopped
from agents.guard import Call, Guard
from agents.runtime import _outcome
from agents.trace import Trace
from runs import active, leases, services
from runs.active import ActiveRun, Delivery
from runs.endings import Ended
from runs.exceptions import ParentIsStopping
from runs.executor import _Job, _tell_stop
from runs.models import RunRecord
from runs.recorder import Recorder
from runs.started import is_leaving
from runs.worker import Worker

__all__ = ["Attempt", "Crash", "Process", "SimulatedExecutor", "breaking"]

_MEMORY = ("_runs", "_workers", "_wakers", "_waiting")


class Attempt:
    """An agent's code, as far as it has come."""

    def __init__(self, process: Process, record: RunRecord, entry: ActiveRun) -> None:
        self.process = process
        self.entry = entry
        self.job = _Job.of(record)
        self.definition = registry.get(record.agent)
        self.guard: Guard | None = None
        self.calls: list[Call] = []
        self.children: dict[Attempt, Call] = {}
        self.parent: Attempt | None = None
        self.started: list[uuid.UUID] = []  # that any worker may take
        self.takes_slot = entry.token.parent is None
        self.is_refused = False  # the agent's code has met AgentStopped
        self.is_returning = False
        self.is_written = False  # or given up, the claim being lost
        self.kind: str | None = None
        self.ended: Ended | None = None
        process.attempts.append(self)
        process.history.append(self)

    def begin(self) -> None:
        """What ``Executor._execute`` and ``run_agent`` do before an agent's first line."""
        entry, job = self.entry, self.job
        recorder = self.process.recorder
        trace = Trace(
            str(entry.id),
            job.agent,
            recorder,
            depth=job.depth,
            last_seq=job.last_seq,
            usage=job.usage,
        )
        guard = Guard(entry.token, trace)
        recorder.open(entry, trace)
        entry.guard = self.guard = guard
        entry.token.add_callback(lambda token: _tell_stop(token, entry, trace))
        entry.token.add_callback(lambda _: recorder.activity(trace))
        if job.stop is not None:
            entry.meet(job.stop)
        trace.emit("agent_start", {"title": self.definition.title})
        self._guarded(lambda: guard.token.admit("agent", job.agent, in_cleanup=False))

    def __repr__(self) -> str:
        facts = [
            f"{self.job.agent} {self.entry.id}/{self.entry.attempt} of {self.entry.worker}",
            f"calls {len(self.calls)}, children {list(self.children)}, started {self.started}",
            f"{self.entry.token!r}, refused {self.is_refused}, returning {self.is_returning}",
        ]
        return f"<{'; '.join(facts)}>"

    @property
    def may_step(self) -> bool:
        return not self.is_returning

    def step(self, chance: random.Random) -> None:
        """Do the next thing, whatever that is."""
        if self.guard is None:
            self.begin()
            return
        if self.process.is_winding_down:
            self._end_call() if self.calls else self._return()
            return
        choices: list[Callable[[], None]] = [self._log, self._return]
        if not self.is_refused or chance.random() < 0.3:  # some swallow what they meet
            choices += [self._begin_call, self._look, lambda: self._call_agent(chance)]
            choices.append(lambda: self._start_agent(chance))
        if self.calls:
            choices += [self._end_call] * 3
        chance.choice(choices)()

    def _log(self) -> None:
        assert self.guard is not None
        self.guard.trace.emit("log", {"message": "a line"}, source="agent")

    def _begin_call(self) -> None:
        assert self.guard is not None
        call = self.guard.call("http", "GET somewhere", method="GET")
        if self._guarded(call.start):
            self.calls.append(call)

    def _end_call(self) -> None:
        self.calls.pop(0).finish()

    def _look(self) -> None:
        assert self.guard is not None
        if self.guard.token.stopped:  # should_stop() says so
            self.guard.token.observe("should_stop")

    def _call_agent(self, chance: random.Random) -> None:
        assert self.guard is not None
        if self.job.depth >= 2 or len(self.children) >= 2:
            return
        guard = self.guard
        call = guard.call("agents.call", "child", in_cleanup=False)
        if not self._guarded(call.start):
            return
        try:
            record, entry = services.start_child(self.entry, chance.choice(["plain", "again"]), {})
        except ParentIsStopping:
            services.meet_request(self.entry)
            self._guarded(lambda: guard.token.refuse("agents.call", "child"))
            call.finish()
            return
        except BaseException:
            call.finish()
            raise
        call.data["run"] = str(record.pk)
        child = Attempt(self.process, record, entry)
        child.parent = self
        self.children[child] = call

    def _start_agent(self, chance: random.Random) -> None:
        """As ``Executor.queue_child`` and, later, ``StartedRuns`` do."""
        assert self.guard is not None
        if self.started and chance.random() < 0.5:
            adopted = leases.adopt(self.entry, chance.choice(self.started))
            if adopted is not None:
                Attempt(self.process, *adopted)
            return
        if self.job.depth >= 2 or len(self.started) >= 2:
            return
        guard = self.guard
        call = guard.call("agents.start", "child", in_cleanup=False)
        if not self._guarded(call.start):
            return
        try:
            record = services.queue_child(self.entry, chance.choice(["plain", "again"]), {})
        except ParentIsStopping:
            services.meet_request(self.entry)
            self._guarded(lambda: guard.token.refuse("agents.start", "child"))
        else:
            self.started.append(record.pk)
            call.data["run"] = str(record.pk)
        finally:
            call.finish()

    def _waits_for_started(self) -> bool:
        """Tell whether some that it has started go on, and its process does not go away."""
        if is_leaving(self.entry) and self.process.chance.random() < 0.3:
            return False
        return RunRecord.objects.active().filter(pk__in=self.started).exists()

    def _guarded(self, admit: Callable[[], Any]) -> bool:
        try:
            admit()
        except AgentStopped:
            self.is_refused = True
            return False
        return True

    def _return(self) -> None:
        """Come to an end, if nothing is left that it would wait for."""
        assert self.guard is not None
        if self.calls or self.children or (self.started and self._waits_for_started()):
            return
        chance = self.process.chance
        error: BaseException | None = None
        if self.is_refused and chance.random() < 0.7:
            error = AgentStopped("met before")
        elif chance.random() < 0.2:
            error = ValueError("as it may")
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        assert self.guard is not None
        self.is_returning = True
        self.guard.close()
        value = f"attempt {self.entry.attempt}"
        outcome = _outcome(self.definition, self.guard, None if error else value, error)
        self.kind = outcome.kind
        self.process.recorder.end(self.guard.trace, outcome, self._on_end)

    def _on_end(self, ended: Ended | None) -> None:
        self.is_written = True
        self.ended = ended
        active.remove(self.entry)
        self.process.attempts.remove(self)
        if self.parent is not None:
            self.parent.children.pop(self).finish()


class SimulatedExecutor:
    """Takes the place of ``runs.executor.Executor`` in a worker whose threads are not started."""

    process: Process

    def __init__(self, recorder: Recorder, on_idle: Callable[[], None]) -> None:
        self.recorder = recorder

    @property
    def root_count(self) -> int:
        return sum(attempt.takes_slot for attempt in self.process.attempts)

    def submit(self, record: RunRecord, entry: ActiveRun) -> None:
        Attempt(self.process, record, entry)

    def wait_until_empty(self, timeout: float) -> bool:
        """Let agents go on for a little."""
        for _ in range(self.process.chance.randrange(8)):
            self.process.step_some_agent()
            self.process.flush()
        return not self.process.attempts

    def cancel_all(self) -> None:
        """Cancel the tasks: calls are cut, and whoever waits for one meets the cancellation."""
        for attempt in list(self.process.attempts):
            if attempt.guard is not None:
                attempt.guard.host_cancelled = True

    def close(self, timeout: float = 5.0) -> None:
        pass


class _Room:
    """Room for all: how much a machine has is another matter."""

    limited_by = ""
    capacity = 100

    def left(self, root_count: int) -> int:
        return 100


class Process:
    """A worker process. ``state`` is up, frozen or dead."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.state = "up"
        self.is_winding_down = False  # its agents begin nothing new
        self.attempts: list[Attempt] = []  # that are under way
        self.history: list[Attempt] = []  # all there ever were
        self.inbox: list[list[Delivery]] = []  # messages that have come
        self.memory: dict[str, Any] = {
            "_runs": {},
            "_workers": {},
            "_wakers": [],
            "_waiting": {},
        }
        self.worker = Worker()
        self.recorder = self.worker._recorder
        executor: Any = self.worker._executor
        executor.process = self
        self.recorder.close = self._close_recorder  # type: ignore[method-assign]
        self.ids: set[uuid.UUID] = set()
        with self.current():
            self.worker._register()
        self.worker._room = _Room()  # type: ignore[assignment]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Be the process that the code runs in."""
        before = {name: getattr(active, name) for name in _MEMORY}
        for name, value in self.memory.items():
            setattr(active, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(active, name, value)
            if self.worker._record is not None:
                self.ids.add(self.worker.id)

    def step_some_agent(self) -> None:
        able = [attempt for attempt in self.attempts if attempt.may_step]
        if able:
            self.chance.choice(able).step(self.chance)

    def flush(self) -> None:
        """Do what the recorder's thread does when it is time."""
        if self.recorder._changed:
            self.recorder._urgent = True
            books = self.recorder._next()
            assert books is not None
            self.recorder._write(books)

    def hear(self) -> None:
        if self.inbox:
            active.trip(self.inbox.pop(0))

    def _close_recorder(self, timeout: float = 10.0) -> bool:
        self.flush()
        return True


class Crash(BaseException):
    """The process is gone from one instant to the next."""


@contextmanager
def breaking(what: type[BaseException], *, before_statement: int | None) -> Iterator[None]:
    """Raise ``what`` before the nth statement of the block, or else right behind a commit.

    Behind a commit is where nobody has been told of it yet, not even the one who asked for it.
    """
    left = before_statement

    def execute(run: Any, sql: Any, parameters: Any, many: Any, context: Any) -> Any:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                left = None
                raise what("broken off")
        return run(sql, parameters, many, context)

    def commit() -> None:
        real_commit()
        connection._commit = real_commit  # type: ignore[method-assign]
        raise what("broken off, but committed")

    real_commit = connection._commit
    if before_statement is None:
        connection._commit = commit  # type: ignore[method-assign]
    try:
        with connection.execute_wrapper(execute):
            yield
    except what:
        connection.close()  # and with it what was to be done after a commit
        raise
    finally:
        connection._commit = real_commit  # type: ignore[method-assign]
