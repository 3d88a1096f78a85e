"""The world of the model: a database, processes, people, a network, and what befalls them.

``tests/walks/test_model.py`` lets hypothesis choose what happens.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

from django.contrib.auth.models import User
from django.db import OperationalError, connection
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runs.actions import abandoning, leases, limits, recovery, starting, stopping
from runs.conf import override
from runs.delivery.stop_message import StopDelivery
from runs.exceptions import (
    IdempotencyMismatch,
    LimitsNotPermitted,
    RunAlreadyFinished,
    RunIsStopping,
)
from runs.models import DataStoreEntry, RunEvent, RunInput, RunRecord, WorkerRecord
from runs.quotas import ledger, queued
from runs.status import ACTIVE
from runs.worker.reaper import Reaper
from tests.support.consistency import assert_all_consistent

from .books import Books
from .clock import CLOCK, Host
from .faults import Crash, breaking
from .processes import LEASE_SECONDS, Process
from .seen import SEEN

__all__ = ["KEEP_DAYS", "KEEP_LOGS_DAYS", "World", "send_stops"]

MOST_PROCESSES, MOST_RUNS = 3, 7
BEAT_SECONDS = LEASE_SECONDS / 3
KEEP_DAYS, KEEP_LOGS_DAYS = 15, 5

FAULTS = st.tuples(
    st.sampled_from([Crash, OperationalError]), st.one_of(st.none(), st.integers(0, 9))
)
AT_TIMES = st.one_of(st.none(), st.none(), st.none(), FAULTS)
THREADS = st.sampled_from(
    ["agent"] * 10
    + ["claim", "write", "write", "beat", "started", "started", "fence", "keep"]
    + ["receive"] * 2
)
BEFALLS = st.sampled_from(
    [
        *("it dies", "it freezes", "it thaws", "it thaws", "it is joined", "it is joined"),
        *("it is drained", "it takes runs again", "its clock stands still"),
    ]
)
MODES = st.sampled_from(["graceful"] * 5 + ["abort"] * 2 + ["abandon"])
BOTH = {"abort_after": 4.0, "abandon_after": 9.0}
PLANS = st.sampled_from([{}, {}, {}, {"abort_after": 1.0}, {"abandon_after": 3.0}, BOTH])
SKEWS = st.sampled_from([0.0, 0.0, -3600.0, -30.0, -3.0, 3.0, 30.0, 3600.0])


class World(RuleBasedStateMachine):
    """A database, some processes, and the people who start and stop runs."""

    owners: list[User]
    loop: asyncio.AbstractEventLoop
    network: list[tuple[uuid.UUID, list[StopDelivery]]] = []  # undelivered, with their receivers
    complaints: list[str] = []  # of the recorder: writes that failed
    steps = 0

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        per_owner=st.sampled_from([0, 0, 2, 3]),
        skews=st.one_of(st.just([0.0]), st.lists(SKEWS, min_size=4, max_size=4)),
    )
    def begin(self, seed: int, per_owner: int, skews: list[float]) -> None:
        for model in (RunEvent, RunInput, RunRecord, WorkerRecord, DataStoreEntry):
            model.objects.all()._raw_delete("default")
        CLOCK.reset()
        for counts in (ledger, queued):
            counts.forget()
        self.chance = random.Random(seed)
        self.skews = skews
        # Not the settings: the fixture keeps each change, and Python's stack ends after a thousand.
        override(max_per_owner=per_owner)
        self.books = Books(timedelta(seconds=2 * max(map(abs, skews))))
        self.processes: list[Process] = []
        self.network.clear()
        self.web = Host("web", self.chance.choice(skews))
        self.web_reaper = Reaper(LEASE_SECONDS)
        self.processes.append(self.new_process())
        for _ in range(self.chance.randrange(MOST_RUNS - 2)):
            name = self.chance.choice(["plain", "again", "again", "limited"])
            run, _ = starting.start_run(name, {}, owner=self.chance.choice(self.owners))
            self.books.started[run.pk] = name

    # What people do, through a web process, with or without a worker inside.

    @precondition(lambda self: len(self.books.started) < MOST_RUNS)
    @rule(
        name=st.sampled_from(
            ["plain", "again", "again", "limited", "hasty", "urgent", "brief", "silent"]
        ),
        owner=st.sampled_from([0, 0, 1]),
        key=st.sampled_from([None, None, "one", "two"]),
        priority=st.sampled_from([None, None, -1]),
        fault=AT_TIMES,
    )
    def start(
        self, name: str, owner: int, key: str | None, priority: int | None, fault: Any
    ) -> None:
        started = self.books.started

        def start() -> None:
            try:
                run, is_new = starting.start_run(
                    name, {}, owner=self.owners[owner], idempotency_key=key, priority=priority
                )
            except IdempotencyMismatch:
                return
            assert is_new or key is not None
            started[run.pk] = name

        self.anywhere(start, fault)
        for run in RunRecord.objects.filter(parent=None):  # its answer may have been lost
            started.setdefault(run.pk, run.agent)

    @precondition(lambda self: self.books.started)
    @rule(fault=AT_TIMES, is_below=st.booleans(), mode=MODES, plan=PLANS)
    def stop(self, fault: Any, is_below: bool, mode: str, plan: dict[str, float]) -> None:
        runs = RunRecord.objects.filter(parent__isnull=not is_below)
        ids = list(runs.order_by("created_at").values_list("pk", flat=True))
        if not ids:
            return
        id = self.chance.choice(ids)
        by = RunRecord.objects.select_related("owner").get(pk=id).owner

        def stop() -> None:
            try:
                stopping.request_stop(id, via="api", by=by, mode=mode, reason="enough", **plan)  # type: ignore[arg-type]
            except RunAlreadyFinished:
                return
            accepted.append(id)

        accepted: list[uuid.UUID] = []
        self.books.asked.add(id)
        is_done, where = self.anywhere(stop, fault)
        self.books.accepted.update(accepted)
        if is_done and accepted:
            self.books.check_accepted(id, where)

    @precondition(lambda self: self.books.started)
    @rule(fault=AT_TIMES, mode=MODES, plan=PLANS)
    def stop_many(self, fault: Any, mode: str, plan: dict[str, float]) -> None:
        ids = list(RunRecord.objects.values_list("pk", flat=True))
        some = self.chance.sample(ids, min(len(ids), self.chance.choice([2, 3, 100])))
        by = self.chance.choice(self.owners)
        self.books.asked.update(some)
        stop_many = partial(stopping.stop_many, some, by=by, via="admin", mode=mode, **plan)  # type: ignore[arg-type]
        self.anywhere(stop_many, fault)

    @precondition(lambda self: self.books.started)
    @rule(fault=AT_TIMES, seconds=st.sampled_from([2.0, 5.0, 20.0]))
    def change_limits(self, fault: Any, seconds: float) -> None:
        """Give a run a deadline, an earlier or a later one."""
        runs = RunRecord.objects.select_related("owner")
        record = self.chance.choice(list(runs.order_by("created_at")))

        def change() -> None:
            try:
                limits.change_limits(record.pk, {"deadline_seconds": seconds}, by=record.owner)
            except (RunAlreadyFinished, RunIsStopping, LimitsNotPermitted):
                return
            SEEN["limits changed"] += 1

        self.anywhere(change, fault)

    # What a worker's threads do.

    @rule(threads=st.lists(THREADS, min_size=1, max_size=12))
    def a_process_continues(self, threads: list[str]) -> None:
        process = self.some("up")
        for thread in threads:
            self.advance_process(process, thread)

    @rule(thread=THREADS, fault=FAULTS)
    def a_process_is_hit(self, thread: str, fault: Any) -> None:
        self.advance_process(self.some("up"), thread, fault)

    @rule(rounds=st.integers(1, 3))
    def all_continue(self, rounds: int) -> None:
        for _ in range(rounds):
            CLOCK.advance(1)
            for process in self.chance.sample(self.living(), len(self.living())):
                for name in ("beat", "claim", *["agent"] * 4, "started", "write"):
                    if process.state == "up":
                        self.advance_process(process, name)

    def advance_process(self, process: Process, thread: str, fault: Any = None) -> None:
        match thread:
            case "agent":
                self.do(process, process.step_some_agent, fault)
            case "claim":
                before = self.books.rows()
                if self.do(process, process.claim, fault):
                    self.books.check_claims(process, before)
            case "write":
                before = self.books.rows()
                self.do(process, process.flush, fault)
                self.books.check_writes(process, before)
            case "started":
                self.do(process, process.poll_started, fault)
            case "beat":
                self.do(process, process.beat, fault)
            case "renew":
                self.do(process, process.worker.heartbeat.renew, fault)
            case "fence":
                self.do(process, process.worker.heartbeat.fence_if_late, fault)
            case "receive":
                self.do(process, process.receive, fault)
            case "keep":
                entries = self.books.entries()
                self.do(process, process.retention.tick, fault)
                assert self.books.entries() == entries, "retention changed the data store"

    @rule(fault=AT_TIMES)
    def the_reaper_runs(self, fault: Any) -> None:
        """By a process without a worker."""
        CLOCK.advance(BEAT_SECONDS)

        def tick() -> None:
            while self.web_reaper.tick():
                pass

        if self.attempt(tick, fault, at=self.web.current()) and fault is None:
            self.books.check_detected()

    @precondition(lambda self: self.network)
    @rule(times=st.sampled_from([0, 1, 1, 2]))
    def a_message_arrives(self, times: int) -> None:
        to, deliveries = self.network.pop(self.chance.randrange(len(self.network)))
        for process in self.processes:
            if to in process.ids:
                process.inbox += [deliveries] * times

    @rule(what=BEFALLS)
    def a_fault_hits_a_process(self, what: str) -> None:
        match what:
            case "it dies":
                self.some("up", "frozen").die()
            case "it freezes":
                self.some("up").state = "frozen"
            case "it thaws":
                self.some("frozen").state = "up"
            case "it is drained":
                leases.mark_draining(self.some("up", "frozen").worker.id)
            case "it takes runs again":
                leases.mark_taking(self.some("up", "frozen").worker.id)
            case "its clock stands still":  # its machine was suspended, for example
                process = self.some("up", "frozen", "dead")
                past = CLOCK.time - timedelta(seconds=1)
                WorkerRecord.objects.filter(pk=process.worker.id).update(lease_until=past)
                process.keeps_time = False
            case "it is joined":
                if len(self.living()) < MOST_PROCESSES:
                    self.processes.append(self.new_process())

    @rule(fault=AT_TIMES)
    def a_process_shuts_down(self, fault: Any) -> None:
        if self.chance.random() < 0.3:
            process = self.some("up")
            self.do(process, process.worker.stop_threads, fault)
            if process.state != "dead":
                process.die()

    # Time.

    @rule(what=st.sampled_from(["moments", "moments", "a lease", "a miss", "weeks"]))
    def time_passes(self, what: str) -> None:
        match what:
            case "moments":
                CLOCK.advance(self.chance.choice([0.5, 2, 4]))
            case "a lease":
                self.pass_leases()
            case "a miss":
                self.miss_a_lease(self.some("up"))
            case "weeks":
                self.pass_weeks()

    def pass_leases(self, *, but: Process | None = None) -> None:
        """Advance by a lease: running processes stay alive, and nothing else happens."""
        up = [process for process in self.processes if process is not but and process.state == "up"]
        for _ in range(4):
            CLOCK.advance(BEAT_SECONDS)
            for process in up:
                self.advance_process(process, "renew")
        for process in up:
            self.advance_process(process, "beat")

    def miss_a_lease(self, process: Process) -> None:
        """Have it declared lost; it may claim again what it still executes."""
        self.pass_leases(but=process)
        self.attempt(leases.mark_lost_leases, None, at=self.web.current())
        self.attempt(recovery.recover_runs, None, at=self.web.current())
        if self.chance.random() < 0.5:
            for name in ("beat", "claim", "agent", "agent", "agent"):
                self.advance_process(process, name)

    def pass_weeks(self) -> None:
        """Advance by weeks in which only heartbeats happen; retention removes what is old."""
        days = timedelta(days=8)
        for process in self.living():
            process.worker.heartbeat.lease.until += days.total_seconds()
        for record in WorkerRecord.objects.all():
            later = record.lease_until + days
            WorkerRecord.objects.filter(pk=record.pk).update(lease_until=later)
        CLOCK.time += days
        process = self.some("up")
        for _ in range(self.chance.randrange(8)):
            self.advance_process(process, "keep")

    # How the test runs it.

    def new_process(self) -> Process:
        return Process(
            self.chance,
            self.loop,
            self.chance.choice(["here", "there"]),
            self.chance.choice(self.skews),
            capacity=self.chance.choice([1, 2, 100]),
        )

    def living(self) -> list[Process]:
        return [process for process in self.processes if process.state != "dead"]

    def some(self, *states: str) -> Process:
        """Choose a process; make a new one if all are dead."""
        found = [process for process in self.processes if process.state in states]
        if not found:
            process = self.processes[0]
            if process.state == "dead":
                self.processes.insert(0, process := self.new_process())
            process.state = "up"
            return process
        return self.chance.choice(found)

    def anywhere(self, work: Callable[[], object], fault: Any) -> tuple[bool, Process | None]:
        """Run ``work`` in one of the processes, or in a web process, which has no local runs."""
        if self.chance.random() < 0.5:
            process = self.some("up")
            return self.do(process, work, fault), process
        return bool(self.attempt(work, fault, at=self.web.current())), None

    def do(self, process: Process, work: Callable[[], object], fault: Any = None) -> bool:
        """Run ``work`` in a process; return whether it completed."""
        World.steps += 1
        is_done = self.attempt(work, fault, at=process.current())
        if is_done is None:
            process.die()
        self.books.note_attempts(process)
        self.books.asked |= process.asked
        return bool(is_done)

    def attempt(
        self, work: Callable[[], object], fault: Any, *, at: AbstractContextManager[None]
    ) -> bool | None:
        """Run ``work``; return whether it completed, or None if the process died."""
        breaks: AbstractContextManager[None] = nullcontext()
        if fault is not None:
            breaks = breaking(fault[0], before_statement=fault[1])
        try:
            with at, breaks:
                work()
        except OperationalError:  # as the main loops of its threads do
            connection.close()
            return False
        except Crash:
            return None
        finally:
            self.books.note_queued()
        return True

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "books"):
            assert self.complaints == []
            self.books.check()

    def teardown(self) -> None:
        """Advance: dead processes are found, frozen ones resume, and all runs end."""
        if not hasattr(self, "books"):
            return
        for process in self.processes:
            if process.state == "frozen":
                process.state = "up"
        self.processes = [*self.living(), self.new_process()]
        for process in self.processes:
            process.is_winding_down = True
        for _ in range(100):
            if not RunRecord.objects.filter(status__in=ACTIVE).exists() and not any(
                process.attempts for process in self.processes
            ):
                break
            CLOCK.advance(2)
            for process in self.processes:
                self.do(process, self._stay_alive(process))
            self.holds()
        else:
            names = ("id", "parent", "agent", "status", "attempt", "worker", "worker__lost_at")
            left = list(RunRecord.objects.filter(status__in=ACTIVE).values_list(*names))
            raise AssertionError(f"some runs do not end: {left} {self.processes}")
        self.pass_leases()  # so that those of the dead are over
        self.holds()
        abandoning.note_left_by_lost()
        for process in self.living():
            with process.current():
                abandoning.note_unexecuted(process.worker.id)
        for record in RunRecord.objects.filter(stop_abandoned=True):
            is_noted = all(one["ended_at"] for one in record.stop_left_behind or ())
            assert is_noted, (record.pk, record.worker_id, record.attempt, self.processes)
        for record in assert_all_consistent(clocks_differ=any(self.skews)):
            if record.pk in self.books.accepted and record.status != "stopped":
                assert record.stop_finished_first
        if self.chance.random() < 0.2:
            self._remove_all()

    def _remove_all(self) -> None:
        CLOCK.advance(2 * KEEP_DAYS * 24 * 3600)
        process = self.chance.choice(self.processes)
        with process.current():
            for _ in range(2):  # after the sweeps that are in progress
                while process.retention.tick():
                    pass
        self.books.check_all_removed()

    def _stay_alive(self, process: Process) -> Callable[[], None]:
        def stay_alive() -> None:
            leases.mark_taking(process.worker.id)
            process.worker.heartbeat.fence_if_late()
            process.beat()
            process.claim()
            for _ in range(len(process.attempts) * 3):
                process.step_some_agent()
            process.poll_started()
            process.flush()

        return stay_alive


def send_stops(deliveries: Iterable[StopDelivery]) -> None:
    stops: dict[uuid.UUID, list[StopDelivery]] = {}
    for delivery in deliveries:
        if delivery.worker is not None:
            stops.setdefault(delivery.worker, []).append(delivery)
    World.network += stops.items()
