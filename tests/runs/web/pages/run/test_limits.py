"""The countdown to a run's deadline, before any script has run."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from runs.status import Status
from tests.support.rows import make_run, make_worker, requested
from tests.support.run_pages import data_of, page_of

pytestmark = pytest.mark.django_db


def left_on(page: str) -> tuple[bool, str]:
    """Return whether the countdown shows, and what it says."""
    found = re.search(r'id="time-left"( hidden)?>.*?id="seconds-left">(.*?)<', page)
    assert found
    return not found[1], found[2]


def limited(owner: User, **fields: Any) -> Any:
    at = timezone.now() + timedelta(seconds=3599)
    limits = {"deadline_seconds": 3600, "idle_seconds": 5, "deadline_at": at}
    return make_run(
        owner, **{"status": Status.RUNNING, "worker": make_worker(), **limits, **fields}
    )


def test_a_running_run_shows_what_is_left(alices: Client, alice: User) -> None:
    run = limited(alice)
    page = page_of(alices, run)
    is_shown, words = left_on(page)
    assert is_shown
    assert words.startswith("59:5")
    assert data_of(page)["run"]["limits"] == {
        "deadline_seconds": 3600,
        "idle_seconds": 5,
        "call_seconds": None,
        "deadline_at": run.deadline_at.isoformat(),
    }


def test_without_a_deadline_or_after_a_stop_nothing_shows(alices: Client, alice: User) -> None:
    free = limited(alice, deadline_at=None)
    stopping = limited(alice, **requested(alice))
    over = limited(alice, status=Status.SUCCESS)
    for run in (free, stopping, over):
        assert left_on(page_of(alices, run)) == (False, "")


def test_the_receipt_names_the_limit(alices: Client, alice: User) -> None:
    limit = {"kind": "wall", "scope": "run", "limit": 60.0, "value": 60.3, "evidence": []}
    run = limited(
        alice, status=Status.STOPPED, stop_limit=limit, **requested(None, stop_via="budget")
    )
    assert "It reached its deadline of 60 s." in page_of(alices, run)


def test_the_admin_shows_limits_and_what_is_left(alice: User, client: Client) -> None:
    run = limited(alice)
    client.force_login(User.objects.create_superuser("root"))
    page = client.get(f"/admin/runs/runrecord/{run.pk}/change/").content.decode()
    assert left_on(page)[0]
    assert "1:00:00 in all · 5 s without a sign of life" in page
