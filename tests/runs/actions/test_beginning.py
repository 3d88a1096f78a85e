"""A run that is only claimed: nothing of it has happened, so it goes back to the queue."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from agents.runtime import Outcome
from runs.actions import finishing, leases, recovery
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.models import RunRecord, WorkerRecord
from runs.queue.limits import Limits
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import in_thread
from tests.support.server import eventually

pytestmark = pytest.mark.usefixtures("on_both_databases")


@pytest.fixture(autouse=True)
def no_runs_here() -> Any:
    yield
    local_runs._runs.clear()


def claim(run: RunRecord, *, is_begin: bool = False) -> ActiveRun:
    """Claim the only queued run by a new worker."""
    worker = make_worker()
    [record] = leases.claim(worker.pk, 10, is_begin=is_begin)
    assert record.pk == run.pk
    run.refresh_from_db()
    return ActiveRun(run.pk, worker.pk, run.attempt)


def lose(entry: ActiveRun) -> None:
    WorkerRecord.objects.filter(pk=entry.worker).update(lost_at=timezone.now())


def recover(run: RunRecord) -> RunRecord:
    assert recovery.recover_runs() == 1
    run.refresh_from_db()
    return run


class TestARunOfALostWorker:
    def test_that_has_not_begun_is_queued_whatever_its_agent_declares(self, alice: User) -> None:
        run = make_run(alice, requeue_on_loss=False)
        lose(claim(run))
        recover(run)
        assert (run.status, run.worker_id, run.started_at) == (Status.QUEUED, None, None)
        assert (run.attempt, run.attempts_begun) == (1, 0)
        assert "had not begun" in run.events.get().data["message"]

    @pytest.mark.parametrize("how", ["by its claim", "by a write"])
    def test_that_has_begun_ends_as_its_agent_declares(self, alice: User, how: str) -> None:
        run = make_run(alice, requeue_on_loss=False)
        entry = claim(run, is_begin=how == "by its claim")
        if how == "by a write":
            assert leases.begin(entry)
            assert leases.begin(entry), "the answer to the first one may be lost"
        lose(entry)
        assert recover(run).error["code"] == "worker_lost"
        assert_consistent(run)

    def test_that_has_begun_before_is_judged_by_its_last_claim(self, alice: User) -> None:
        run = make_run(alice, requeue_on_loss=True, max_attempts=5)
        lose(claim(run, is_begin=True))
        assert recover(run).status == Status.QUEUED
        lose(claim(run))
        assert recover(run).attempts_begun == 1
        assert "had not begun" in run.events.get(seq=2).data["message"]

    def test_that_has_not_begun_has_used_up_no_attempt(self, alice: User) -> None:
        run = make_run(alice, requeue_on_loss=True, max_attempts=2)
        for is_begin in (False, False, True, False):
            lose(claim(run, is_begin=is_begin))
            assert recover(run).status == Status.QUEUED
        lose(claim(run, is_begin=True))
        recover(run)
        assert (run.status, run.attempt, run.attempts_begun) == (Status.ERROR, 5, 2)
        assert "All 2 attempts are used up" in run.error["message"]

    def test_that_ends_its_workers_before_it_begins_has_an_end(self, alice: User) -> None:
        run = make_run(alice)
        for _ in range(finishing.MOST_RETURNED):
            lose(claim(run))
            assert recover(run).status == Status.QUEUED
        lose(claim(run))
        assert recover(run).status == Status.ERROR
        assert "was claimed 11 times" in run.error["message"]
        assert_consistent(run)

    def test_that_was_asked_to_stop_is_stopped(self, alice: User) -> None:
        run = make_run(alice)
        entry = claim(run)
        RunRecord.objects.filter(pk=run.pk).update(**requested(stop_root_request=run.pk))
        lose(entry)
        assert recover(run).status == Status.STOPPED

    def test_of_an_older_release_counts_as_begun(self, alice: User) -> None:
        """Its claim does not know the column."""
        run = make_run(alice, status=Status.RUNNING, worker=make_worker(lost_at=timezone.now()))
        assert recover(run).status == Status.ERROR


class TestBeginAgainstRecovery:
    def test_the_recovery_is_first(self, alice: User) -> None:
        run = make_run(alice)
        entry = claim(run)
        lose(entry)
        assert recover(run).status == Status.QUEUED
        assert not leases.begin(entry)

    def test_the_worker_is_lost_first(self, alice: User) -> None:
        run = make_run(alice)
        entry = claim(run)
        lose(entry)
        assert not leases.begin(entry)
        assert recover(run).status == Status.QUEUED

    def test_the_claim_is_another_ones_by_now(self, alice: User) -> None:
        run = make_run(alice)
        entry = claim(run)
        lose(entry)
        recover(run)
        claim(run)
        assert not leases.begin(entry)
        assert RunRecord.objects.get(pk=run.pk).is_only_claimed

    @pytest.mark.postgres  # on SQLite, with its one writer at a time, begin can't even start
    def test_begin_waits_for_a_recovery_that_has_the_lock(self, alice: User) -> None:
        """When begin reads it, the worker is not lost yet."""
        run = make_run(alice)
        entry = claim(run)
        with ExitStack() as threads:
            with transaction.atomic():
                record = RunRecord.objects.select_for_update(no_key=True).get(pk=run.pk)
                result = threads.enter_context(in_thread(leases.begin, entry))
                eventually(_one_waits, "begin waits for the lock", 10)
                lose(entry)
                finishing.finish([finishing.finish_lost(record, code="worker_lost")])
            assert result() is False
        run.refresh_from_db()
        assert (run.status, run.attempts_begun) == (Status.QUEUED, 0)

    @pytest.mark.postgres
    def test_a_recovery_leaves_a_run_that_is_just_beginning(self, alice: User) -> None:
        run = make_run(alice)
        entry = claim(run)
        with transaction.atomic():
            assert leases.begin(entry)
            with in_thread(lose, entry) as wait:
                wait()
            with in_thread(recovery.recover_runs) as recovered:
                assert recovered() == 0
        assert recover(run).status == Status.ERROR, "it has begun"


class TestAWorkerThatKnows:
    """Its claim is good, and it reports that the agent's code was not called."""

    @pytest.mark.parametrize("is_fenced", [True, False])
    def test_gives_the_run_back(self, alice: User, is_fenced: bool) -> None:
        run = make_run(alice)
        self._end(claim(run, is_begin=True), is_fenced=is_fenced)
        run.refresh_from_db()
        assert (run.status, run.attempt, run.attempts_begun) == (Status.QUEUED, 1, 0)

    def test_gives_back_no_called_run(self, alice: User) -> None:
        """Its caller waits for it in the same process."""
        worker = make_worker()
        caller = make_run(alice, status=Status.RUNNING, worker=worker)
        run = make_run(alice, status=Status.RUNNING, worker=worker, parent=caller, holds_slot=False)
        self._end(ActiveRun(run.pk, worker.pk))
        run.refresh_from_db()
        assert run.status == Status.ERROR

    def test_gives_back_no_run_that_was_asked_to_stop(self, alice: User) -> None:
        run = make_run(alice)
        entry = claim(run, is_begin=True)
        RunRecord.objects.filter(pk=run.pk).update(**requested(stop_root_request=run.pk))
        self._end(entry)
        run.refresh_from_db()
        assert run.status == Status.STOPPED

    def _end(self, entry: ActiveRun, *, is_fenced: bool = False) -> None:
        outcome = Outcome("interrupted")
        ending = Ending(outcome, None, 0, 0, is_fenced=is_fenced, has_begun=False)
        record_updates([Updates(entry.id, entry.worker, entry.attempt, ending=ending)])


class TestAClaim:
    """By the database's clock: at least half of the lease is left."""

    @pytest.mark.parametrize(("age", "count"), [(7, 1), (8, 0), (14, 0), (16, 0)])
    def test_needs_a_lease_that_was_renewed_in_time(
        self, alice: User, age: int, count: int
    ) -> None:
        make_run(alice)
        assert len(leases.claim(self._worker(age), 10)) == count
        assert RunRecord.objects.filter(status=Status.RUNNING).count() == count

    @pytest.mark.parametrize(("age", "count"), [(7, 1), (8, 0)])
    def test_within_limits_needs_it_too(self, alice: User, age: int, count: int) -> None:
        make_run(alice)
        assert len(leases.claim(self._worker(age), 10, Limits(per_owner=5))) == count

    @pytest.mark.parametrize(("age", "is_adopted"), [(7, True), (8, False)])
    def test_for_a_caller_needs_it_too(self, alice: User, age: int, is_adopted: bool) -> None:
        worker = self._worker(age)
        row = WorkerRecord.objects.get(pk=worker)
        caller = make_run(alice, status=Status.RUNNING, worker=row)
        run = make_run(alice, parent=caller)
        adopted = leases.adopt(ActiveRun(caller.pk, worker), run.pk)
        assert (adopted is not None) == is_adopted

    def _worker(self, age: int) -> Any:
        """Register a worker that renewed its lease of 15 s so long ago."""
        now = timezone.now()
        renewed_at = now - timedelta(seconds=age)
        return make_worker(
            heartbeat_at=renewed_at, lease_until=renewed_at + timedelta(seconds=15)
        ).pk


def _one_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(cursor.fetchone()[0])
