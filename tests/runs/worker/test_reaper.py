"""The reaper without a worker, and the state that a worker keeps when it loses its lease."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.utils import timezone

from runs.actions import leases, recovery
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker.reaper import Reaper, ReaperThread
from runs.worker.worker import Worker
from tests.support.rows import make_run, make_worker
from tests.support.server import eventually

LEASE_SECONDS = 3.0


@pytest.fixture
def reaper_thread(transactional_db: None) -> Iterator[ReaperThread]:
    thread = ReaperThread(LEASE_SECONDS)
    yield thread
    thread.close()


def _of_a_dead_worker(owner: User, count: int = 1) -> list[RunRecord]:
    dead = make_worker(host_identity="elsewhere", lease_until=timezone.now() - timedelta(seconds=1))
    return [make_run(owner, status=Status.RUNNING, worker=dead) for _ in range(count)]


def _status(run: RunRecord) -> str:
    return RunRecord.objects.get(pk=run.pk).status


def test_without_a_worker_it_ends_the_runs_of_a_dead_one(
    reaper_thread: ReaperThread, alice: User
) -> None:
    (run,) = _of_a_dead_worker(alice)
    reaper_thread.start()
    eventually(lambda: _status(run) == "error")
    assert RunRecord.objects.get(pk=run.pk).error["code"] == "worker_lost"


def test_it_survives_a_database_outage(
    reaper_thread: ReaperThread,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (run,) = _of_a_dead_worker(alice)
    real, failures = leases.mark_vanished_workers, [OperationalError("away")] * 2

    def fail_at_first(me: Any) -> list[WorkerRecord]:
        if failures:
            raise failures.pop()
        return real(me)

    monkeypatch.setattr("runs.worker.reaper.POLL_SECONDS", 0.01)
    monkeypatch.setattr(leases, "mark_vanished_workers", fail_at_first)
    with caplog.at_level(logging.WARNING, "runs.worker.reaper"):
        reaper_thread.start()
        eventually(lambda: _status(run) == "error")
    logged = [r for r in caplog.records if r.name == "runs.worker.reaper"]
    assert len(logged) == 1  # not one for each try


def test_many_lost_runs_leave_time_for_a_heartbeat(
    transactional_db: None, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _of_a_dead_worker(alice, 3)
    real = recovery.recover_runs
    monkeypatch.setattr(recovery, "recover_runs", lambda **how: real(limit=2, **how))
    reaper = Reaper(LEASE_SECONDS)
    assert reaper.tick() is True
    assert sorted(map(_status, runs)) == ["error", "error", "running"]
    assert reaper.tick() is True
    assert [_status(run) for run in runs] == ["error"] * 3
    assert reaper.tick() is False


def test_lost_runs_that_take_long_leave_time_for_a_heartbeat(
    transactional_db: None, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, recovering a few dozen took longer than the recovering worker's lease."""
    runs = _of_a_dead_worker(alice, 3)
    real = recovery._recover

    def recover(*what: Any) -> Any:
        threading.Event().wait(0.02)
        return real(*what)

    monkeypatch.setattr(recovery, "_recover", recover)
    reaper = Reaper(lease_seconds=0.06)
    for left in (2, 1, 0):
        assert reaper.tick() is True
        assert sorted(map(_status, runs)) == ["error"] * (3 - left) + ["running"] * left
    assert reaper.tick() is False


def _lose_lease(worker: Worker) -> None:
    before = worker.id
    WorkerRecord.objects.filter(pk=before).update(lost_at=timezone.now())
    eventually(lambda: worker.id != before, "it registers under another name")


def test_a_drained_worker_that_loses_its_lease_stays_drained(
    hire: Callable[..., Worker], options: Callable[..., None], alice: User
) -> None:
    options(LEASE_SECONDS=1)
    drained, other = hire(), hire()
    leases.mark_draining(drained.id)
    _lose_lease(drained)
    _lose_lease(other)
    assert WorkerRecord.objects.get(pk=drained.id).draining_at is not None
    assert WorkerRecord.objects.get(pk=other.id).draining_at is None


def test_a_worker_that_shuts_down_drains_again_when_its_drain_is_cancelled(
    transactional_db: None,
) -> None:
    worker = leases.register_worker(1, 30)
    leases.mark_draining(worker.pk)
    leases.mark_taking(worker.pk)
    assert leases.renew(worker.pk, 30, is_draining=True)
    worker.refresh_from_db()
    since = worker.draining_at
    assert since is not None
    assert leases.renew(worker.pk, 30, is_draining=True)
    worker.refresh_from_db()
    assert worker.draining_at == since
