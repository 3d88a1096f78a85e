"""A worker's look at what is due: each part alone, and nothing when nothing is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from runs.models import RunRecord
from runs.queue.due import Due, look
from runs.status import Status
from tests.support.rows import make_run, make_worker

pytestmark = pytest.mark.usefixtures("on_both_databases")

PAST, FUTURE = timedelta(seconds=-5), timedelta(hours=1)
NOTHING = Due(deadlines=False, plans=False, lost_runs=False, queue=False)


def _stopped(mode: str, **plan: timedelta) -> dict[str, Any]:
    now = timezone.now()
    request = {"stop_requested_at": now, "stop_mode": mode, "stop_via": "api"}
    return request | {name: now + after for name, after in plan.items()}


def _make(owner: User, what: str, after: timedelta) -> None:
    at = timezone.now() + after
    alive = make_worker()
    match what:
        case "deadlines":
            make_run(owner, status=Status.RUNNING, worker=alive, deadline_at=at)
        case "abort":
            plan = _stopped("graceful", stop_abort_at=after)
            make_run(owner, status=Status.RUNNING, worker=alive, **plan)
        case "abandon":
            plan = _stopped("abort", stop_abandon_at=after)
            make_run(owner, status=Status.RUNNING, worker=alive, **plan)
        case "lost_runs":
            lost = make_worker(lost_at=timezone.now() if after is PAST else None)
            make_run(owner, status=Status.RUNNING, worker=lost)
        case "queue":
            make_run(owner, queue_until=at)


@pytest.mark.parametrize("what", ["deadlines", "abort", "abandon", "lost_runs", "queue"])
def test_each_is_seen_once_it_is_due(alice: User, what: str) -> None:
    make_run(alice)
    _make(alice, what, FUTURE)
    assert look() == NOTHING
    _make(alice, what, PAST)
    field = "plans" if what in {"abort", "abandon"} else what
    assert look() == NOTHING._replace(**{field: True})


def test_a_run_whose_worker_has_no_record_is_lost(alice: User) -> None:
    worker = make_worker()
    run = make_run(alice, status=Status.RUNNING, worker=worker)
    RunRecord.objects.filter(pk=run.pk).update(worker=None)
    assert look() == NOTHING._replace(lost_runs=True)


def test_what_is_as_hard_already_is_not_due(alice: User) -> None:
    worker = make_worker()
    make_run(alice, status=Status.RUNNING, worker=worker, **_stopped("abort", stop_abort_at=PAST))
    over = _stopped("abandon", stop_abandon_at=PAST)
    make_run(alice, status=Status.STOPPED, worker=worker, **over)
    make_run(
        alice,
        status=Status.RUNNING,
        worker=worker,
        deadline_at=timezone.now() + PAST,
        **_stopped("graceful"),
    )
    assert look() == NOTHING
