"""What polling compares: a change without a message is found by it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from runs.models import RunRecord
from runs.status import Status
from runs.web.feed import reading
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def stopping() -> RunRecord:
    owner = User.objects.create_user("alice")
    return make_run(owner, status=Status.RUNNING, worker=make_worker(), **requested(owner))


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_mode": "abort", "stop_escalated_at": NOW},
        {"stop_abort_at": NOW},
        {"stop_abandon_at": NOW},
        {"stop_acknowledged_at": NOW},
        {"stop_observed_at": NOW},
    ],
)
def test_a_page_finds_all_that_it_says_of_a_stop(changes: dict[str, Any]) -> None:
    run = stopping()
    before = reading.fingerprints([run.pk])
    assert reading.fingerprints([run.pk]) == before
    RunRecord.objects.filter(pk=run.pk).update(**changes)
    assert reading.fingerprints([run.pk]) != before


def test_a_list_finds_that_a_stop_became_harder() -> None:
    run = stopping()
    since = timezone.now() - timedelta(hours=1)
    before = reading.active_runs(since, 10)
    RunRecord.objects.filter(pk=run.pk).update(stop_mode="abort", stop_escalated_at=NOW)
    assert reading.active_runs(since, 10) != before
