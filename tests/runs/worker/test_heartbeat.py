"""A worker that loses its lease or its database, and the fate of its runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import Tools, agent, should_stop
from runs.actions import leases, recovery, stopping
from runs.delivery import local_runs, stops
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker.heartbeat import Heartbeat
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.rows import make_dead_worker, make_run, make_worker, requested
from tests.support.running import Gate, Start


class TestTakeover:
    @pytest.mark.usefixtures("on_both_databases")
    def test_runs_of_a_dead_worker_on_this_host_are_taken_over_within_three_seconds(
        self, alice: User, hire: Any, log: Journal
    ) -> None:
        @agent("again", on_worker_loss="requeue", max_attempts=3)
        async def again(tools: Tools) -> str:
            await tools.data_store.get("x")
            return "done"

        dead = make_dead_worker()
        make = lambda **fields: make_run(  # noqa: E731
            alice, status=Status.RUNNING, worker=dead, agent="again", **fields
        )
        fails, asked = make(), make(**requested(alice))
        RunRecord.objects.filter(pk=asked.pk).update(stop_root_request=asked.pk)
        returns = make(requeue_on_loss=True, max_attempts=3)
        child = make(parent=returns)
        queued = make_run(alice, agent="again")
        started_at = time.monotonic()
        hire()
        records = log.until_over(fails, asked, child, returns, queued)
        assert time.monotonic() - started_at < 3
        fails, asked, child, returns, queued = records
        assert (fails.status, fails.error["code"]) == (Status.ERROR, "worker_lost")
        assert (child.status, child.error["code"]) == (Status.ERROR, "worker_lost")
        assert asked.status == Status.STOPPED
        assert (returns.status, returns.result, returns.attempt) == (Status.SUCCESS, "done", 2)
        assert (queued.status, queued.attempt) == (Status.SUCCESS, 1)
        assert [e.type for e in returns.events.order_by("seq")] == [
            "log",
            "agent_start",
            "data_store",
            "agent_end",
        ]
        for run in records:
            if run != returns:  # its child is of an earlier attempt
                assert_consistent(run)

    def test_a_run_has_a_limited_number_of_attempts(
        self, alice: User, hire: Any, log: Journal
    ) -> None:
        dead = make_dead_worker()
        run = make_run(
            alice,
            status=Status.RUNNING,
            worker=dead,
            requeue_on_loss=True,
            attempt=3,
            max_attempts=3,
        )
        hire()
        record = log.over(run)
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")

    def test_a_frozen_worker_elsewhere_is_found_by_its_lease(
        self, alice: User, options: Any, hire: Any, log: Journal
    ) -> None:
        options(LEASE_SECONDS=1.5)
        late = timezone.now() - timezone.timedelta(seconds=1)
        frozen = make_worker(host_identity="elsewhere", lease_until=late)
        run = make_run(alice, status=Status.RUNNING, worker=frozen)
        hire()
        assert log.over(run).error["code"] == "worker_lost"

    @pytest.mark.usefixtures("endless")
    def test_a_worker_that_was_declared_lost_writes_nothing_and_stops_its_agents(
        self, options: Any, hire: Any, start: Start, log: Journal, caplog: Any
    ) -> None:
        options(LEASE_SECONDS=1.5)
        worker = hire()
        run = start("endless")
        log.until_event(run, "log")
        entry = local_runs.get(run.pk)
        assert entry is not None
        first = worker.id
        with local_runs.watching(run.pk) as gone:
            WorkerRecord.objects.filter(pk=first).update(lost_at=timezone.now())
            recovery.recover_runs()
            record = log.over(run)
            assert gone.wait(10), "the agent was not stopped"
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")
        assert entry.token.stopped
        assert_consistent(run)
        eventually(lambda: worker.id != first, "the worker registers again")
        again = start("endless")
        log.until_event(again, "log")
        stopping.request_stop(again.pk, via="api", check_permission=False)
        assert log.over(again).worker_id == worker.id
        assert "never retrieved" not in caplog.text

    @pytest.mark.usefixtures("endless")
    def test_a_worker_whose_database_hangs_stops_its_agents_before_its_lease_ends(
        self, options: Any, hire: Any, start: Start, log: Journal, monkeypatch: Any
    ) -> None:
        options(LEASE_SECONDS=1.5)
        gate, observed = Gate(), threading.Event()

        @agent("asking")
        async def asking(tools: Tools) -> None:
            tools.log("at work")
            while not should_stop():
                await asyncio.sleep(0.002)
            observed.set()

        hire()
        run = start("asking")
        log.until_event(run, "log")
        monkeypatch.setattr(leases, "renew", lambda *_, **__: gate.wait_here() or True)
        gate.until_arrived()
        try:
            assert observed.wait(3)
            worker = WorkerRecord.objects.get(pk=RunRecord.objects.get(pk=run.pk).worker_id)
            assert timezone.now() < worker.lease_until
        finally:
            gate.open()
        record = log.over(run)
        assert not record.stop_requested
        # It was not shut down.
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")

    def test_a_worker_ends_its_own_orphaned_runs(
        self, alice: User, options: Any, hire: Any, log: Journal
    ) -> None:
        options(LEASE_SECONDS=1.5)
        worker = hire()
        row = WorkerRecord.objects.get(pk=worker.id)
        run = make_run(alice, status=Status.RUNNING, worker=row)
        assert log.over(run).error["code"] == "worker_lost"


class TestThreadsOfAWorker:
    @pytest.mark.parametrize("error", [OperationalError, InterfaceError, RuntimeError])
    def test_survive_errors(
        self,
        error: type[Exception],
        hire: Any,
        start: Start,
        stop: Any,
        log: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        @agent("endless")
        async def endless(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        claim, deliver = leases.claim, stops.deliver_missed
        failures = Counter[str]()

        def claim_badly(*arguments: Any) -> Any:
            if failures["claim"] < 2:
                failures["claim"] += 1
                raise error("away")
            return claim(*arguments)

        def deliver_badly(self: Worker) -> None:
            if failures["deliver"] < 2:
                failures["deliver"] += 1
                raise error("away")
            deliver(self)

        monkeypatch.setattr(leases, "claim", claim_badly)
        monkeypatch.setattr(stops, "deliver_missed", deliver_badly)
        monkeypatch.setattr(stops, "deliver", lambda *_: None)  # only the heartbeat can find it
        hire()
        run = start("endless")
        log.until_event(run, "log")
        stop(run)
        assert log.over(run).status == Status.STOPPED
        assert failures == {"claim": 2, "deliver": 2}


@pytest.mark.usefixtures("on_both_databases")
@pytest.mark.parametrize(
    ("count", "idle_seconds", "expected"),
    [(0, None, 1), (1, None, 2), (20, None, 2), (1, 60.0, 3), (20, 60.0, 3)],
)
def test_a_beat_reads_all_runs_of_its_worker_at_once(
    count: int,
    idle_seconds: float | None,
    expected: int,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One more query is for what is due of any worker."""
    monkeypatch.setattr(local_runs, "_runs", {})
    heart = Heartbeat(60, None)
    heart.register()
    monkeypatch.setattr(heart._reaper, "tick", lambda found: False)
    worker = WorkerRecord.objects.get(pk=heart.id)
    try:
        for _ in range(count):
            run = make_run(alice, status=Status.RUNNING, worker=worker, idle_seconds=idle_seconds)
            local_runs.add(local_runs.ActiveRun(run.pk, worker.pk))
        with CaptureQueriesContext(connection) as queries:
            assert not heart.beat()
    finally:
        local_runs.remove_worker(heart.id)
    assert len(queries) == expected, [query["sql"] for query in queries]
    entries = local_runs.all_runs()
    assert [entry.limits.idle_seconds for entry in entries] == [idle_seconds] * count
    assert not any(entry.token.stopped for entry in entries)
