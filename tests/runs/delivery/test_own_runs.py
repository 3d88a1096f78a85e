"""What a worker reads of its own runs, and what becomes of those that it has lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from agents.cancellation import CancelToken, StopCause, StopMode
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.own_runs import abort_lost, read
from runs.delivery.stops import deliver_missed
from runs.models import RunInput, RunRecord, WorkerRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("on_both_databases")]


@pytest.fixture(autouse=True)
def no_runs() -> Iterator[None]:
    yield
    local_runs._runs.clear()


@pytest.fixture
def worker() -> WorkerRecord:
    return make_worker()


def running(worker: WorkerRecord, owner: User, **options: object) -> ActiveRun:
    record = make_run(owner, status=Status.RUNNING, worker=worker)
    entry = ActiveRun(record.pk, worker.pk, **options)  # type: ignore[arg-type]
    local_runs.add(entry)
    return entry


def delete_by_sql(entry: ActiveRun) -> None:
    """Not by the ORM, which asks the run to stop."""
    with transaction.atomic():
        RunInput.objects.filter(run=entry.id)._raw_delete("default")
        RunRecord.objects.filter(pk=entry.id)._raw_delete("default")


def test_a_run_without_a_record_is_aborted_and_the_others_are_not(
    worker: WorkerRecord, alice: User, django_assert_num_queries: object
) -> None:
    entries = [running(worker, alice) for _ in range(4)]
    gone = entries[2]
    delete_by_sql(gone)
    with django_assert_num_queries(2):  # type: ignore[operator]
        abort_lost(read(worker.pk))
    assert [entry.token.stopped for entry in entries] == [False, False, True, False]
    assert (gone.token.mode, gone.token.cause) == (StopMode.ABORT, StopCause.SHUTDOWN)
    with django_assert_num_queries(1):  # type: ignore[operator]
        assert read(worker.pk).lost == []  # it is known, and takes its time


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 2},
        {"status": Status.QUEUED, "worker": None, "started_at": None},
        {"worker": "another"},
    ],
    ids=["claimed again here", "queued again", "claimed elsewhere"],
)
def test_a_run_that_has_another_claim_is_aborted(
    worker: WorkerRecord, alice: User, change: dict[str, object]
) -> None:
    entry = running(worker, alice)
    if change.get("worker") == "another":
        change = {"worker": make_worker()}
    RunRecord.objects.filter(pk=entry.id).update(**change)
    abort_lost(read(worker.pk))
    assert entry.token.mode is StopMode.ABORT


def test_a_run_that_has_just_ended_is_not_its_ending_is_here_in_a_moment(
    worker: WorkerRecord, alice: User
) -> None:
    entry = running(worker, alice)
    found = RunRecord.objects.filter(pk=entry.id)
    found.update(status=Status.SUCCESS, finished_at=timezone.now())
    abort_lost(read(worker.pk))
    assert not entry.token.stopped


def test_a_stop_is_made_harder_when_the_record_is_gone(worker: WorkerRecord, alice: User) -> None:
    token = CancelToken()
    token.request(reason="enough")
    entry = running(worker, alice, token=token)
    delete_by_sql(entry)
    abort_lost(read(worker.pk))
    assert (token.mode, token.cause, token.reason) == (
        StopMode.ABORT,
        StopCause.REQUEST,
        "enough",
    )


def test_runs_of_another_worker_of_this_process_are_left_alone(
    worker: WorkerRecord, alice: User, django_assert_num_queries: object
) -> None:
    entry = running(worker, alice)
    with django_assert_num_queries(0):  # type: ignore[operator]
        abort_lost(read(uuid.uuid4()))
    assert not entry.token.stopped


def test_abandoned_runs_are_found_among_the_others_until_they_know(
    worker: WorkerRecord, alice: User, django_assert_num_queries: object
) -> None:
    others, known = [running(worker, alice) for _ in range(3)], running(worker, alice)
    left = running(worker, alice)
    left.token.request(StopMode.ABORT)  # its cut did not help
    now = timezone.now()
    RunRecord.objects.filter(pk__in=[left.id, known.id]).update(
        status=Status.STOPPED,
        finished_at=now,
        stop_abandoned=True,
        stop_requested_at=now,
        stop_mode="abandon",
        stop_via="api",
    )
    known.token.request(StopMode.ABANDON)
    own = read(worker.pk)
    assert own.noted == []
    assert (own.abandoned, own.lost) == ([left], [])
    deliver_missed(own)
    assert left.token.mode is StopMode.ABANDON
    assert local_runs.abandoned() == [known, left]
    for entry in others:
        local_runs.remove(entry)
    with django_assert_num_queries(0):  # type: ignore[operator]
        read(worker.pk)


def test_a_run_that_has_left_this_process_since_is_left_alone(
    worker: WorkerRecord, alice: User
) -> None:
    entry = running(worker, alice)
    queued = {"status": Status.QUEUED, "worker": None, "started_at": None}
    RunRecord.objects.filter(pk=entry.id).update(**queued)
    own = read(worker.pk)
    assert own.lost == [entry]
    local_runs.remove(entry)
    abort_lost(own)
    assert not entry.token.stopped


def test_a_run_that_is_claimed_meanwhile_is_not_missed(worker: WorkerRecord, alice: User) -> None:
    """Its claim is not in what the query has read."""
    seen = running(worker, alice)
    RunRecord.objects.filter(pk=seen.id).update(idle_seconds=5)
    asked: list[str] = []

    def then_claim(execute: Any, sql: str, *rest: Any) -> Any:
        asked.append(sql)
        result = execute(sql, *rest)
        if len(asked) == 1:
            running(worker, alice)
        return result

    with connection.execute_wrapper(then_claim):
        own = read(worker.pk)
    assert ([run for run, _ in own.noted], own.lost) == ([seen], [])
    assert not any("stop_abandoned" in sql for sql in asked if sql.startswith("SELECT"))
