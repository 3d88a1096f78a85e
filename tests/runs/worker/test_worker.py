"""A worker's lease and its end, with and without a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, InterfaceError, OperationalError
from django.utils import timezone

from agents import AgentStopped, Tools, agent
from agents.cancellation import CancelToken, Lease
from runs.actions import leases, starting, stopping
from runs.actions.progress import record_updates
from runs.delivery import local_runs, stops
from runs.delivery.local_runs import ActiveRun
from runs.models import RunRecord, WorkerRecord, uuid7
from runs.queue import claims
from runs.status import Status
from runs.worker import recorder
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_run
from tests.support.running import Gate, Start

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("error", [DatabaseError, InterfaceError])
def test_it_drains_and_stops_although_it_cannot_record_it(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise error("gone")

    worker = Worker(claims=False)
    worker.start_threads()
    monkeypatch.setattr(leases, "mark_draining", refuse)
    monkeypatch.setattr(leases, "retire", refuse)
    worker.drain_threads()
    worker.stop_threads()
    assert not worker.is_alive


def test_it_ends_all_runs_whose_code_did_not_return(alice: User) -> None:
    worker = Worker(claims=False)
    worker.start_threads()
    # More than are ended in one batch; none of them is executed here.
    for _ in range(205):
        make_run(alice, status=Status.RUNNING, worker=worker.heartbeat._record)
    worker.stop_threads()
    ended = set(RunRecord.objects.values_list("status", "error__code"))
    assert ended == {("error", "worker_shutdown")}


def test_it_has_capacity_while_it_claims_and_its_lease_lasts() -> None:
    """A full worker that is offered a run wakes the others: ``AgentConsumer.run_start``."""
    claiming, given = Worker(), Worker(claims=False)
    try:
        assert claiming.has_capacity
        assert not given.has_capacity
        claiming.heartbeat.lease.end()
        assert not claiming.has_capacity
    finally:
        for worker in (claiming, given):
            worker.executor._loop.close()


class TestItsLease:
    @pytest.fixture
    def worker(self) -> Iterator[Worker]:
        """Without threads: the test takes each step."""
        worker = Worker(claims=False)
        worker.heartbeat.register()
        yield worker
        worker.executor._loop.close()
        local_runs.remove_worker(worker.id)
        local_runs._runs.clear()

    @staticmethod
    def run_under(worker: Worker) -> ActiveRun:
        run = ActiveRun(uuid7(), worker.id, token=CancelToken(lease=local_runs.lease_of(worker.id)))
        local_runs.add(run)
        return run

    def test_a_failed_renewal_is_retried_at_the_next_poll(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not a third of the lease later: the second failure would be the last one."""
        renewed: list[bool] = []

        def renew(*_: object, **__: object) -> bool:
            renewed.append(len(renewed) > 0)
            if not renewed[-1]:
                raise OperationalError("the server is starting up")
            return True

        monkeypatch.setattr(leases, "renew", renew)
        worker.heartbeat.renew_if_due()
        assert renewed == [], "it has just started"
        worker.heartbeat.next_renewal = 0.0
        with pytest.raises(OperationalError):
            worker.heartbeat.renew_if_due()
        worker.heartbeat.renew_if_due()
        worker.heartbeat.renew_if_due()
        assert renewed == [False, True]

    def test_a_check_of_it_does_not_end_the_next_one(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lease and runs of a worker that was late and renews at the same moment."""
        late, runs = worker.heartbeat.lease, [self.run_under(worker)]
        late.end()

        def end(lease: Lease) -> None:
            assert lease is late
            worker.heartbeat.start_lease(time.monotonic())
            runs.append(self.run_under(worker))
            really_end(lease)

        really_end = Lease.end
        monkeypatch.setattr(Lease, "end", end)
        worker.heartbeat.fence_if_late()
        assert not worker.is_fenced
        assert [run.token.stopped for run in runs] == [True, False]

    def test_is_not_ended_by_the_worker_itself(self, worker: Worker) -> None:
        """The database's clock says that it has ended: machine and database were suspended."""
        over = timezone.now() - timedelta(seconds=1)
        WorkerRecord.objects.filter(pk=worker.id).update(lease_until=over)
        assert leases.mark_lost_leases(worker.id) == []
        worker.heartbeat.renew()
        assert not worker.is_fenced
        assert leases.mark_lost_leases() == []

    def test_covers_a_run_that_is_claimed_while_it_is_lost(
        self, worker: Worker, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The claim is committed; before it is registered, the process is frozen for a while."""
        run = make_run(alice)
        claim = claims.claim

        def claim_and_freeze(*arguments: Any) -> Any:
            claimed = claim(*arguments)
            worker.heartbeat.lease.end()
            local_runs.remove_worker(worker.id)
            return claimed

        monkeypatch.setattr(claims, "claim", claim_and_freeze)
        assert [record.pk for record in leases.claim(worker.id, 1)] == [run.pk]
        entry = local_runs.get(run.pk)
        assert entry is not None
        with pytest.raises(AgentStopped):
            entry.token.admit("http", "GET somewhere")


class TestCommandLine:
    """A worker that claims nothing, and executes the runs that it is given."""

    def test_executes_the_run_that_was_claimed_at_its_start(
        self, alice: User, hire: Any, start: Start, log: Journal
    ) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        worker = hire(claims=False)
        waiting = start("quick")
        run, _ = starting.start_run("quick", {}, owner=alice, worker=worker.id)
        assert run.status == Status.RUNNING
        worker.adopt(run)
        record = log.over(run)
        assert (record.result, record.worker_id, record.attempt) == ("done", worker.id, 1)
        waiting.refresh_from_db()
        assert waiting.status == Status.QUEUED
        assert_consistent(run)

    def test_never_starts_a_run_with_a_stop_between_claim_and_start(
        self, alice: User, hire: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran: list[int] = []

        @agent("quick")
        async def quick(tools: Tools) -> None:
            ran.append(1)

        monkeypatch.setattr(stops, "deliver", lambda *_: None)  # requested by another process
        monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)
        worker = hire(claims=False)
        run, _ = starting.start_run("quick", {}, owner=alice, worker=worker.id)
        stopping.request_stop(run.pk, via="cli", by=alice)
        claimed = RunRecord.objects.select_related("input_record", "stop_requested_by")
        worker.adopt(claimed.get(pk=run.pk))
        assert log.over(run).status == Status.STOPPED
        assert not ran
        assert_consistent(run)


@pytest.mark.usefixtures("on_both_databases")
def test_an_unreliable_database_loses_nothing_of_real_runs(
    worker: Worker, start: Start, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    calls = iter(range(10**6))

    def write(batch: Any) -> Any:
        n = next(calls)
        if n % 3 == 1:
            raise OperationalError("the database is away")
        recorded = record_updates(batch)
        if n % 3 == 2:
            raise OperationalError("the answer was lost")
        return recorded

    @agent("teller")
    async def teller(tools: Tools, n: int) -> int:
        tools.log("before")
        await gate.wait()
        await tools.data_store.set(f"k{n}", n)
        return n

    monkeypatch.setattr(recorder, "RETRY_SECONDS", (0.01,))
    monkeypatch.setattr(recorder, "record_updates", lambda batch, _: write(batch))
    runs = [start("teller", n=n) for n in range(20)]
    gate.until_arrived(20)
    for run in runs[:10]:
        stop(run)
    gate.open()
    records = log.until_over(*runs)
    assert {r.status for r in records[:10]} == {Status.STOPPED}
    assert [r.result for r in records[10:]] == list(range(10, 20))
    for run in runs:
        assert_consistent(run)
