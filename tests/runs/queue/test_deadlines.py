"""The time limit of the queue: a run that no worker claims in time ends with an error."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from agents import Tools, agent
from runs import transitions
from runs.actions import recovery, starting, stopping
from runs.delivery import local_runs
from runs.exceptions import RunAlreadyFinished
from runs.models import RunEvent, RunRecord
from runs.queue import claims
from runs.queue.limits import Limits
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, Start, in_thread, together
from tests.support.server import eventually

pytestmark = pytest.mark.usefixtures("on_both_databases", "transactional_db")

QUEUE_TIMEOUT = {
    "code": "queue_timeout",
    "type": "QueueTimeout",
    "message": "No worker claimed it within 60 s.",
}


def overdue(owner: User, **fields: Any) -> RunRecord:
    """Queue a run that has waited a moment longer than its minute."""
    now = timezone.now()
    times = {"created_at": now - timedelta(seconds=61), "queue_until": now - timedelta(seconds=1)}
    return make_run(owner, **{**times, **fields})


class TestStart:
    @pytest.mark.parametrize(
        ("of_the_agent", "of_all", "expected"),
        [(None, 0, None), (None, 60, 60), (0, 60, None), (2.5, 60, 2.5), (2.5, 0, 2.5)],
    )
    def test_sets_the_limit_of_the_agent_or_of_the_settings(
        self,
        of_the_agent: float | None,
        of_all: float,
        expected: float | None,
        start: Start,
        options: Callable[..., None],
    ) -> None:
        @agent("waits", queue_seconds=of_the_agent)
        async def waits(tools: Tools) -> None: ...

        options(QUEUE_SECONDS=of_all)
        start("waits")
        run = RunRecord.objects.get()
        if expected is None:
            assert run.queue_until is None
        else:
            assert run.queue_until == run.created_at + timedelta(seconds=expected)

    def test_of_a_run_that_never_waits_sets_none(
        self, alice: User, options: Callable[..., None]
    ) -> None:
        @agent("at-once", queue_seconds=5)
        async def at_once(tools: Tools) -> None: ...

        run, _ = starting.start_run("at-once", {}, owner=alice, worker=make_worker().pk)
        local_runs.remove(run.pk)
        assert RunRecord.objects.get().queue_until is None


class TestEnd:
    def test_is_an_error_with_its_reason_in_record_and_log(self, alice: User) -> None:
        run = overdue(alice)
        assert recovery.end_overdue(timezone.now()) == 1
        record = assert_consistent(run)
        assert (record.status, record.error, record.attempt) == ("error", QUEUE_TIMEOUT, 0)
        event = RunEvent.objects.get()
        assert (event.type, event.data["started"]) == ("agent_end", False)
        assert event.data["error"] == QUEUE_TIMEOUT

    def test_is_not_before_the_start_by_another_hosts_clock(self, alice: User) -> None:
        run = overdue(alice, created_at=timezone.now() + timedelta(hours=1))
        assert recovery.end_overdue(timezone.now()) == 1
        run.refresh_from_db()
        assert run.finished_at == run.created_at

    def test_is_only_for_overdue_runs(self, alice: User) -> None:
        make_run(alice, queue_until=timezone.now() + timedelta(seconds=60))
        make_run(alice)
        overdue(alice, status=Status.RUNNING, worker=make_worker())
        overdue(alice, status=Status.SUCCESS)
        assert recovery.end_overdue(timezone.now()) == 0
        assert not RunEvent.objects.exists()

    def test_comes_in_small_batches_with_the_longest_overdue_first(self, alice: User) -> None:
        until = timezone.now() - timedelta(seconds=5)
        runs = [overdue(alice, queue_until=until - timedelta(seconds=n)) for n in (3, 2, 1)]
        assert recovery.end_overdue(timezone.now(), limit=2) == 2
        left = RunRecord.objects.get(status=Status.QUEUED)
        assert left == runs[-1]
        assert recovery.end_overdue(timezone.now(), limit=2) == 1
        assert recovery.end_overdue(timezone.now(), limit=2) == 0
        assert_all_consistent()

    def test_by_many_at_once_is_written_once(self, alice: User) -> None:
        for _ in range(20):
            overdue(alice)
        counts = together(*[partial(recovery.end_overdue, timezone.now()) for _ in range(6)])
        assert sum(counts) == 20
        assert_all_consistent()

    def test_comes_from_a_worker_without_free_capacity(
        self, start: Start, hire: Callable[..., Worker], options: Callable[..., None]
    ) -> None:
        gate = Gate()

        @agent("patient", queue_seconds=30)
        async def patient(tools: Tools) -> None:
            await gate.wait()

        @agent("hasty", queue_seconds=0.2)
        async def hasty(tools: Tools) -> None: ...

        options(MAX_CONCURRENT=1)
        hire()
        start("patient")
        gate.until_arrived()
        late = start("hasty")
        eventually(lambda: RunRecord.objects.get(pk=late.pk).status == Status.ERROR)
        gate.open()
        eventually(lambda: not RunRecord.objects.active().exists())
        first, second = assert_all_consistent()
        assert first.status == "success"
        assert second.error is not None
        assert second.error["message"] == "No worker claimed it within 0.2 s."


class TestRaces:
    @pytest.mark.parametrize("allowed", [Limits(), Limits({"made": 5})])
    def test_an_overdue_run_is_never_claimed(self, allowed: Limits, alice: User) -> None:
        run = overdue(alice)
        worker = make_worker()
        assert claims.claim(worker.pk, 10, timezone.now(), allowed) == {}
        assert recovery.end_overdue(timezone.now()) == 1
        assert claims.claim(worker.pk, 10, timezone.now(), allowed) == {}
        assert_consistent(run)

    def test_an_overdue_run_is_never_adopted(self, alice: User) -> None:
        worker, run = make_worker(), overdue(alice)
        assert transitions.claim_one(worker.pk, run.pk, timezone.now()) is None
        in_time = make_run(alice, queue_until=timezone.now() + timedelta(seconds=60))
        assert transitions.claim_one(worker.pk, in_time.pk, timezone.now()) == 1

    def test_a_run_that_was_claimed_in_time_continues(self, alice: User) -> None:
        run = overdue(alice)
        worker = make_worker()
        in_time = timezone.now() - timedelta(seconds=30)
        assert set(claims.claim(worker.pk, 1, in_time)) == {run.pk}
        assert recovery.end_overdue(timezone.now()) == 0
        run.refresh_from_db()
        assert run.status == "running"

    def test_a_stop_that_comes_first_makes_it_stopped(self, alice: User) -> None:
        run = overdue(alice)
        stopping.request_stop(run.pk, via="api", by=alice)
        assert recovery.end_overdue(timezone.now()) == 0
        assert assert_consistent(run).status == "stopped"

    def test_a_stop_that_comes_second_is_refused(self, alice: User) -> None:
        run = overdue(alice)
        assert recovery.end_overdue(timezone.now()) == 1
        with pytest.raises(RunAlreadyFinished):
            stopping.request_stop(run.pk, via="api", by=alice)
        record = assert_consistent(run)
        assert (record.status, record.stop_requested) == ("error", False)

    @pytest.mark.postgres
    def test_an_open_stop_is_skipped(self, alice: User) -> None:
        run, other = overdue(alice), overdue(alice)
        with transaction.atomic():
            stopping.request_stop(run.pk, via="api", by=alice)
            with in_thread(recovery.end_overdue, timezone.now()) as ended:
                assert ended() == 1  # and does not wait
        assert assert_consistent(run).status == "stopped"
        assert assert_consistent(other).status == "error"

    def test_of_stop_claim_and_end_one_wins(self, alice: User) -> None:
        worker = make_worker()
        for _ in range(10):
            run = overdue(alice)
            in_time = timezone.now() - timedelta(seconds=30)
            stopped, claimed, ended = together(
                partial(stopping.request_stop, run.pk, via="api", by=alice),
                partial(claims.claim, worker.pk, 1, in_time),
                partial(recovery.end_overdue, timezone.now()),
            )
            record = RunRecord.objects.get(pk=run.pk)
            assert bool(claimed) + bool(ended) + (record.status == Status.STOPPED) == 1
            assert isinstance(stopped, RunAlreadyFinished) == (record.status == Status.ERROR)
            if not claimed:
                assert_consistent(run)


class TestRequeueing:
    def test_gives_the_run_its_full_time_and_its_place_again(
        self, alice: User, options: Callable[..., None]
    ) -> None:
        options(QUEUE_SECONDS=60)
        lost = make_worker(lost_at=timezone.now())
        run = overdue(
            alice, status=Status.RUNNING, worker=lost, turn=7, requeue_on_loss=True, max_attempts=2
        )
        assert recovery.recover_runs() == 1
        run.refresh_from_db()
        assert run.queue_until is not None
        assert (run.status, run.turn) == ("queued", 7)
        left = (run.queue_until - timezone.now()).total_seconds()
        assert 30 < left <= 60
        later = timezone.now() + timedelta(seconds=61)
        assert recovery.end_overdue(later) == 1
        run.refresh_from_db()
        assert run.error is not None
        assert run.error["message"] == ("It was requeued, and no worker claimed it again in time.")
