"""Which worker a queued run is offered to, when no worker of this process can take it."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from runs.delivery import worker_choice
from runs.delivery.worker_choice import REFRESH_SECONDS, WorkerChoice
from runs.models import WorkerRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker
from tests.support.running import together

pytestmark = pytest.mark.usefixtures("transactional_db")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands still unless a test sets ``now``."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(worker_choice, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def choose_worker() -> uuid.UUID | None:
    return worker_choice.choice.choose()


def occupy(worker: WorkerRecord, owner: User, count: int, **fields: Any) -> None:
    for _ in range(count):
        make_run(owner, status=Status.RUNNING, worker=worker, holds_slot=True, **fields)


def test_the_most_free_capacity_wins(alice: User) -> None:
    large, middle, _ = [make_worker(capacity=capacity) for capacity in (10, 5, 3)]
    assert choose_worker() == large.pk
    occupy(large, alice, 6)
    assert WorkerChoice().choose() == middle.pk


def test_only_running_runs_that_hold_a_slot_take_capacity(alice: User) -> None:
    worker, other = make_worker(capacity=5), make_worker(capacity=4)
    occupy(other, alice, 1)
    make_run(alice, status=Status.SUCCESS, worker=worker, holds_slot=True)
    caller = make_run(alice, status=Status.RUNNING, worker=other, holds_slot=True)
    for _ in range(3):
        make_run(alice, status=Status.RUNNING, worker=worker, parent=caller, holds_slot=False)
    assert [choose_worker() for _ in range(7)].count(worker.pk) == 5


def test_what_is_given_out_is_counted() -> None:
    large, small = make_worker(capacity=3), make_worker(capacity=1)
    assert Counter(choose_worker() for _ in range(6)) == {large.pk: 3, small.pk: 1, None: 2}


def test_threads_do_not_give_out_the_same_capacity_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(dict[Any, int]):
        def __getitem__(self, worker: Any) -> int:
            free = super().__getitem__(worker)
            time.sleep(0.001)  # another thread reads the same number now
            return free

    monkeypatch.setattr(worker_choice.choice, "_free", Slow())
    worker = make_worker(capacity=6)
    assert choose_worker() == worker.pk
    assert Counter(together(*[choose_worker] * 20)) == {worker.pk: 5, None: 15}


@pytest.mark.parametrize("reason", ["drained", "lost", "expired", "full"])
def test_a_worker_that_takes_no_runs_is_not_chosen(reason: str, alice: User) -> None:
    now = timezone.now()
    worker = make_worker(capacity=100)
    changes: dict[str, dict[str, Any]] = {
        "drained": {"draining_at": now},
        "lost": {"lost_at": now},
        "expired": {"lease_until": now - timedelta(seconds=1)},
        "full": {"capacity": 2},
    }
    occupy(worker, alice, 2)
    other = make_worker(capacity=1)
    assert choose_worker() == worker.pk, "it can take runs so far"
    WorkerRecord.objects.filter(pk=worker.pk).update(**changes[reason])
    later = WorkerChoice()
    assert [later.choose() for _ in range(2)] == [other.pk, None]


def test_without_any_worker_it_is_none() -> None:
    assert choose_worker() is None


def test_the_database_is_asked_once_within_the_refresh_interval(
    clock: SimpleNamespace, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        assert [choose_worker() for _ in range(3)] == [None] * 3
    worker = make_worker(capacity=2)
    clock.now += REFRESH_SECONDS - 0.01
    with django_assert_num_queries(0):
        assert choose_worker() is None
    clock.now += 0.01
    with django_assert_num_queries(1):
        assert [choose_worker() for _ in range(3)] == [worker.pk, worker.pk, None]
    clock.now += REFRESH_SECONDS
    with django_assert_num_queries(1):
        assert choose_worker() == worker.pk, "the table says that nothing runs there"


def test_a_worker_that_is_gone_is_forgotten_at_the_next_refresh(clock: SimpleNamespace) -> None:
    worker = make_worker()
    assert choose_worker() == worker.pk
    WorkerRecord.objects.filter(pk=worker.pk).update(lost_at=timezone.now())
    clock.now += REFRESH_SECONDS
    assert choose_worker() is None
