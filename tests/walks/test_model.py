"""Workers that crash, freeze and come back as strangers, in every order that hypothesis thinks of.

The code is the real one, called step by step (``tests/support/simulated.py``): doors that start and
stop, workers that claim, renew, recover, execute, write and drain. Between any two steps, and in
one between any two statements, a process may die, or lose its connection before or behind a commit;
messages are lost, come late and come twice; leases run out under workers that know nothing of it.

``MODEL_EXAMPLES=2000`` tries for longer.
"""

from __future__ import annotations

import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents import AgentError, agent
from runs import caretaker, leases, live, queue, recorder, services, worker
from runs.active import Delivery
from runs.exceptions import IdempotencyMismatch, RunAlreadyFinished
from runs.models import RunEvent, RunInput, RunRecord, WorkerRecord
from runs.status import ACTIVE, TERMINAL
from tests.support.consistency import assert_all_consistent
from tests.support.simulated import Attempt, Crash, Process, SimulatedExecutor, breaking

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES") or 40)
STEPS = 50
MOST_PROCESSES = 3
MOST_RUNS = 7

FAULTS = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.tuples(st.sampled_from([Crash, OperationalError]), st.one_of(st.none(), st.integers(0, 9))),
)


class World(RuleBasedStateMachine):
    """A database, some processes, and what somebody who sees everything knows of them."""

    owner: User
    steps = 0
    complaints: list[str] = []  # of the recorder: what it could not write

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        for model in (RunEvent, RunInput, RunRecord, WorkerRecord):
            model.objects.all()._raw_delete("default")
        self.chance = random.Random(seed)
        self.processes: list[Process] = []
        self.network: list[tuple[uuid.UUID, list[Delivery]]] = []
        self.started: dict[uuid.UUID, str] = {}
        self.asked: set[uuid.UUID] = set()
        self.accepted: set[uuid.UUID] = set()
        self.attempts: dict[tuple[str, int], list[Attempt]] = {}
        self.ended: dict[uuid.UUID, dict[str, Any]] = {}
        World.sent = self.network.append  # type: ignore[attr-defined]
        self.add_process()

    # What people do. They speak to a web process, or to one that has a worker inside.

    @precondition(lambda self: len(self.started) < MOST_RUNS)
    @rule(
        name=st.sampled_from(["plain", "again", "again", "limited"]),
        key=st.sampled_from([None, None, "one", "two"]),
        fault=FAULTS,
    )
    def start(self, name: str, key: str | None, fault: Any) -> None:
        def start() -> None:
            try:
                run, is_new = services.start_run(name, {}, owner=self.owner, idempotency_key=key)
            except IdempotencyMismatch:
                return
            assert is_new or run.pk in self.started or fault or key is not None
            self.started[run.pk] = name

        self.somewhere(start, fault)
        for run in RunRecord.objects.filter(parent=None):  # its answer may have been lost
            self.started.setdefault(run.pk, run.agent)

    @precondition(lambda self: self.started)
    @rule(fault=FAULTS, is_below=st.booleans())
    def stop(self, fault: Any, is_below: bool) -> None:
        runs = RunRecord.objects.filter(parent__isnull=not is_below)
        ids = list(runs.order_by("created_at").values_list("pk", flat=True))
        if not ids:
            return
        id = self.chance.choice(ids)

        def stop() -> None:
            try:
                services.request_stop(id, via="api", by=self.owner, reason="enough")  # type: ignore[arg-type]
            except RunAlreadyFinished:
                return
            self.accepted.add(id)

        self.asked.add(id)
        self.somewhere(stop, fault)

    @precondition(lambda self: self.started)
    @rule(fault=FAULTS)
    def stop_all(self, fault: Any) -> None:
        if self.chance.random() < 0.3:
            ids = list(RunRecord.objects.values_list("pk", flat=True))
            self.asked.update(ids)
            self.somewhere(
                lambda: services.stop_many(ids, by=self.owner, via="admin"),  # type: ignore[arg-type]
                fault,
            )

    # What a worker's threads do.

    @rule(count=st.integers(1, 8))
    def agents_go_on(self, count: int) -> None:
        process = self.some("up")
        for _ in range(count):
            self.do(process, process.step_some_agent, None)

    @rule(fault=FAULTS)
    def an_agent_goes_on(self, fault: Any) -> None:
        process = self.some("up")
        self.do(process, process.step_some_agent, fault)

    @rule(fault=FAULTS)
    def claim(self, fault: Any) -> None:
        process = self.some("up")
        self.do(process, process.worker._claim_some, fault)

    @rule(fault=FAULTS)
    def write(self, fault: Any) -> None:
        self.write_of(self.some("up"), fault)

    def write_of(self, process: Process, fault: Any) -> None:
        before = self.books()
        self.do(process, process.flush, fault)
        self.assert_only_its_own_were_written(process, before)

    @rule(fault=FAULTS)
    def beat(self, fault: Any) -> None:
        """One round of the heart, as the worker's own thread goes it."""
        process = self.some("up")

        def beat() -> None:
            process.worker._renew()
            leases.recover_strays(process.worker.id)
            process.worker._meet_requests()

        self.do(process, beat, fault)

    @rule(fault=FAULTS)
    def look_after_the_lost(self, fault: Any) -> None:
        process = self.some("up")

        def tick() -> None:
            leases.mark_lost_leases()
            leases.recover_runs()
            queue.end_overdue(timezone.now())

        self.do(process, tick, fault)

    @rule()
    def fence(self) -> None:
        process = self.some("up")
        self.do(process, process.worker._fence_if_late, None)

    @rule()
    def hear(self) -> None:
        process = self.some("up")
        self.do(process, process.hear, None)

    @rule()
    def time_goes_by(self) -> None:
        """All that live do what they do, so that what befalls them hits them in the midst of it."""
        for process in self.chance.sample(self.living(), len(self.living())):
            if process.state == "up":
                self.do(process, process.worker._claim_some, None)
                for _ in range(4):
                    self.do(process, process.step_some_agent, None)
                self.write_of(process, None)

    # What befalls them.

    @rule(is_found_by_itself=st.booleans())
    def a_process_misses_its_lease(self, is_found_by_itself: bool) -> None:
        """It is declared lost, and perhaps claims anew what it still executes."""
        process = self.some("up")
        past = timezone.now() - timedelta(seconds=1)
        WorkerRecord.objects.filter(pk=process.worker.id).update(lease_until=past)
        self.attempt(leases.mark_lost_leases, None)
        self.attempt(leases.recover_runs, None)
        if is_found_by_itself:
            self.do(process, process.worker._renew, None)
            self.do(process, process.worker._claim_some, None)
            for _ in range(3):
                self.do(process, process.step_some_agent, None)

    @precondition(lambda self: self.network)
    @rule(times=st.sampled_from([0, 1, 1, 2]))
    def a_message_arrives(self, times: int) -> None:
        to, deliveries = self.network.pop(self.chance.randrange(len(self.network)))
        for process in self.processes:
            if process.worker._record is not None and to in process.ids:
                process.inbox += [deliveries] * times

    @precondition(lambda self: len(self.living()) < MOST_PROCESSES)
    @rule()
    def add_process(self) -> None:
        self.processes.append(Process(self.chance))

    @rule()
    def freeze(self) -> None:
        self.some("up").state = "frozen"

    @rule()
    def thaw(self) -> None:
        self.some("frozen").state = "up"

    @rule()
    def crash(self) -> None:
        if self.chance.random() < 0.3:
            self.some("up", "frozen").state = "dead"

    @rule()
    def a_lease_runs_out(self) -> None:
        process = self.some("up", "frozen", "dead")
        past = timezone.now() - timedelta(seconds=1)
        WorkerRecord.objects.filter(pk=process.worker.id).update(lease_until=past)
        if self.chance.random() < 0.7:  # else its clock goes slower than that of others
            process.worker._lease.until = time.monotonic()

    @rule(fault=FAULTS)
    def drain(self, fault: Any) -> None:
        if self.chance.random() < 0.3:
            process = self.some("up")
            self.do(process, process.worker.stop_threads, fault)
            process.state = "dead"

    # How it goes on.

    def living(self) -> list[Process]:
        return [process for process in self.processes if process.state != "dead"]

    def some(self, *states: str) -> Process:
        """Choose a process; there is a new one if all are dead."""
        found = [process for process in self.processes if process.state in states]
        if not found:
            process = self.processes[0]
            if process.state == "dead":
                self.processes.insert(0, process := Process(self.chance))
            process.state = "up"
            return process
        return self.chance.choice(found)

    def somewhere(self, work: Callable[[], object], fault: Any) -> None:
        if self.chance.random() < 0.5:
            self.do(self.some("up"), work, fault)
        else:
            self.attempt(work, fault)  # a web process has no memory of runs

    def do(self, process: Process, work: Callable[[], object], fault: Any) -> None:
        World.steps += 1
        with process.current():
            is_alive = self.attempt(work, fault)
        if not is_alive:
            process.state = "dead"
        for attempt in process.history:
            key = (str(attempt.entry.id), attempt.entry.attempt)
            self.attempts.setdefault(key, []).append(attempt)
        process.history.clear()

    def attempt(self, work: Callable[[], object], fault: Any) -> bool:
        """Do ``work``; return whether the process has outlived it."""
        if fault is None:
            work()
            return True
        what, before = fault
        try:
            with breaking(what, before_statement=before):
                work()
        except OperationalError:  # as the main loops of its threads do
            connection.close()
        except Crash:
            return False
        return True

    # What is true after every step.

    def books(self) -> dict[uuid.UUID, dict[str, Any]]:
        return {row["id"]: row for row in RunRecord.objects.order_by("created_at").values()}

    def assert_only_its_own_were_written(self, process: Process, before: dict[Any, Any]) -> None:
        claims = {
            (id, attempt.entry.worker, attempt.entry.attempt)
            for (id, _), attempts in self.attempts.items()
            for attempt in attempts
            if attempt.process is process
        }
        for id, row in self.books().items():
            if row != before[id]:
                held = (str(id), before[id]["worker_id"], before[id]["attempt"])
                assert held in claims, "a stranger has written"
                assert before[id]["status"] == "running"

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "ended"):
            return
        rows = self.books()
        assert self.complaints == []
        assert {id for id, row in rows.items() if row["parent_id"] is None} == set(self.started)
        lost = set(WorkerRecord.objects.filter(lost_at__isnull=False).values_list("pk", flat=True))
        self._check_logs(rows)
        limited = 0
        for id, row in rows.items():
            if id in self.ended:
                assert row == self.ended[id], "what is over stays as it is"
            elif row["status"] in TERMINAL:
                self._check_ending(row, lost)
                self.ended[id] = row
            parent = rows.get(row["parent_id"])
            if parent is not None and parent["status"] in TERMINAL:
                assert row["status"] in TERMINAL, "a child outlives its caller"
                assert row["finished_at"] <= parent["finished_at"]
            assert row["attempt"] <= row["max_attempts"]
            assert row["stop_calls_started_after_acknowledgement"] == 0
            if row["status"] == "queued":
                assert row["in_flight"] == []
            limited += (
                row["agent"] == "limited" and row["status"] == "running" and row["holds_slot"]
            )
        assert limited <= 1, "the limit of an agent"
        for attempts in self.attempts.values():
            assert len(attempts) == 1, "one claim is executed once"

    def _check_logs(self, rows: dict[uuid.UUID, dict[str, Any]]) -> None:
        logs: dict[uuid.UUID, list[tuple[int, str]]] = {id: [] for id in rows}
        for id, seq, type in RunEvent.objects.order_by("seq").values_list("run", "seq", "type"):
            logs[id].append((seq, type))
        for id, row in rows.items():
            assert [seq for seq, _ in logs[id]] == list(range(1, row["last_seq"] + 1))
            ends = [seq for seq, type in logs[id] if type == "agent_end"]
            assert ends == ([row["last_seq"]] if row["status"] in TERMINAL else [])

    def _check_ending(self, row: dict[str, Any], lost: set[Any]) -> None:
        attempts = self.attempts.get((str(row["id"]), row["attempt"]), [])
        for attempt in attempts:
            is_over = attempt.is_returning or attempt.process.state == "dead"
            # The one of this attempt: a run that was handed back may be over without another.
            assert is_over or attempt.entry.worker in lost, "over, and its code goes on"
        kinds = {attempt.kind for attempt in attempts}
        if row["status"] == "success":
            assert kinds == {"success"}, "a success that was none"
            assert row["result"] == f"attempt {row['attempt']}"
        elif row["status"] == "stopped":
            assert self._was_asked(row), "nobody has asked for this stop"
        else:
            code = row["error"]["code"]
            if code == "unhandled_exception":
                assert kinds == {"error"}
            else:
                assert code in {"worker_lost", "worker_shutdown"}

    def _was_asked(self, row: dict[str, Any]) -> bool:
        if row["stop_reason"] == "the worker of its caller went away":
            return True
        return row["stop_root_request"] in self.asked

    def teardown(self) -> None:
        """Let time go by: the dead are found, the frozen come back, and all comes to its end."""
        if not hasattr(self, "ended"):
            return
        for process in self.processes:
            if process.state == "frozen":
                process.state = "up"
        dead = [process.worker.id for process in self.processes if process.state == "dead"]
        WorkerRecord.objects.filter(pk__in=dead).update(lease_until=timezone.now())
        self.processes = [*self.living(), Process(self.chance)]
        for process in self.processes:
            process.is_winding_down = True
        for _ in range(100):
            if not RunRecord.objects.filter(status__in=ACTIVE).exists() and not any(
                process.attempts for process in self.processes
            ):
                break
            for process in self.processes:
                self.do(process, self._live_on(process), None)
            self.holds()
        else:
            names = ("id", "parent", "agent", "status", "attempt", "worker", "worker__lost_at")
            left = list(RunRecord.objects.filter(status__in=ACTIVE).values_list(*names))
            going_on = [attempt for process in self.processes for attempt in process.attempts]
            raise AssertionError(f"it does not come to an end: {left} {going_on}")
        self.holds()
        for record in assert_all_consistent():
            if record.pk in self.accepted and record.status != "stopped":
                assert record.stop_finished_first

    def _live_on(self, process: Process) -> Callable[[], None]:
        def live_on() -> None:
            process.worker._fence_if_late()
            process.worker._renew()
            leases.recover_strays(process.worker.id)
            leases.mark_lost_leases()
            leases.recover_runs()
            process.worker._meet_requests()
            process.worker._claim_some()
            for _ in range(len(process.attempts) * 2):
                process.step_some_agent()
            process.flush()

        return live_on


def _send_stops(deliveries: Iterable[Delivery]) -> None:
    stops: dict[uuid.UUID, list[Delivery]] = {}
    for delivery in deliveries:
        if delivery.worker is not None:
            stops.setdefault(delivery.worker, []).append(delivery)
    for to, mine in stops.items():
        World.sent((to, mine))  # type: ignore[attr-defined]


def test_workers_that_crash_and_freeze_leave_no_run_in_a_false_state(
    alice: User, options: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options(LEASE_SECONDS=3600)
    caplog.set_level(logging.CRITICAL)  # workers are lost by the hundred here
    monkeypatch.setattr(logging.getLogger("runs"), "disabled", True)
    monkeypatch.setattr(worker, "Executor", SimulatedExecutor)
    monkeypatch.setattr(live, "send_stops", _send_stops)
    monkeypatch.setattr(recorder, "RETRY_SECONDS", (0.0,))
    monkeypatch.setattr(
        recorder.logger, "exception", lambda words, *_, **__: World.complaints.append(words)
    )
    monkeypatch.setattr(World, "complaints", [])
    monkeypatch.setattr(caretaker, "NEIGHBOURS_SECONDS", 0.0)

    @agent("plain")
    async def plain(tools: Any) -> str:
        raise AgentError

    @agent("again", on_worker_loss="requeue", max_attempts=3)
    async def again(tools: Any) -> str:
        raise AgentError

    @agent("limited", on_worker_loss="requeue", max_concurrent=1)
    async def limited(tools: Any) -> str:
        raise AgentError

    World.owner = alice
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Shrinking takes minutes; MODEL_SHRINK=1 is for whoever has them.
            phases=[Phase.generate, *([Phase.shrink] if os.environ.get("MODEL_SHRINK") else [])],
            report_multiple_bugs=False,
            print_blob=True,
        ),
    )
    print(f"{World.steps} steps")
