"""A user who is deactivated: their runs stop, whichever way it happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client

from runs.actions import owners
from runs.identity.models import AuditEntry
from runs.models import RunRecord
from runs.status import Status
from runs.wire import get_for_wire, run_as_dict
from runs.wording.receipt import sentences
from runs.worker.reaper import Reaper
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice(transactional_db: None) -> User:
    return User.objects.create_user("alice", password="pw")


@pytest.fixture
def runs(alice: User) -> list[RunRecord]:
    """A running tree, a queued run, and runs that are none of it."""
    worker = make_worker()
    root = make_run(alice, status=Status.RUNNING, worker=worker)
    below = make_run(alice, status=Status.RUNNING, worker=worker, parent=root)
    return [root, below, make_run(alice)]


@pytest.fixture
def others(alice: User) -> list[RunRecord]:
    bob = User.objects.create_user("bob")
    asked = make_run(alice, status=Status.RUNNING, worker=make_worker(), **requested(alice))
    return [make_run(bob), make_run(alice, status=Status.SUCCESS), asked]


def by_save(alice: User) -> None:
    alice.is_active = False
    alice.save()


def by_update(alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)
    Reaper(15).tick()


@pytest.mark.parametrize("deactivate", [by_save, by_update])
def test_the_runs_stop_and_say_why(
    alice: User,
    runs: list[RunRecord],
    others: list[RunRecord],
    deactivate: Callable[[User], None],
) -> None:
    before = [run_as_dict(get_for_wire(run.pk)) for run in others]
    deactivate(alice)
    root, below, queued = (run_as_dict(get_for_wire(run.pk)) for run in runs)
    assert [run["status"] for run in (root, below, queued)] == ["stopping", "stopping", "stopped"]
    for run in (root, queued):
        assert run["stop"] is not None
        assert (run["stop"]["via"], run["stop"]["requested_by"]) == ("account", None)
        assert run["stop"]["reason"] == "the owner's account was deactivated"
    assert below["stop"] is not None
    assert (below["stop"]["via"], below["stop"]["root_request"]) == ("parent", root["id"])
    assert "because its owner's account was deactivated" in sentences(queued)[0]
    assert [run_as_dict(get_for_wire(run.pk)) for run in others] == before
    assert AuditEntry.objects.filter(act="stop").count() == 2, "one for each that was asked"
    assert owners.stop_all_of_inactive() == 0
    assert AuditEntry.objects.filter(act="stop").count() == 2


def test_in_the_admin_it_is_the_deactivating_person_s_stop(
    alice: User, runs: list[RunRecord]
) -> None:
    root = User.objects.create_superuser("root")
    browser = Client()
    browser.force_login(root)
    form = {"username": "alice", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    assert browser.post(f"/admin/auth/user/{alice.pk}/change/", form).status_code == 302
    assert not User.objects.get(pk=alice.pk).is_active
    for run in (runs[0], runs[2]):
        stop = run_as_dict(get_for_wire(run.pk))["stop"]
        assert stop is not None
        assert (stop["via"], stop["requested_by"]) == ("admin", "root")
        said = sentences(run_as_dict(get_for_wire(run.pk)))[0]
        assert "(reason: the owner's account was deactivated)" in said


def test_a_rolled_back_deactivation_stops_nothing(alice: User, runs: list[RunRecord]) -> None:
    with transaction.atomic():
        by_save(alice)
        transaction.set_rollback(True)
    assert not RunRecord.objects.filter(stop_requested_at__isnull=False).exists()


@pytest.mark.parametrize("deactivate", [by_save, by_update])
def test_a_setting_lets_them_go_on(
    alice: User, runs: list[RunRecord], settings: Any, deactivate: Callable[[User], None]
) -> None:
    settings.RUNS = {**settings.RUNS, "STOP_INACTIVE_OWNERS": False}
    deactivate(alice)
    assert not RunRecord.objects.filter(stop_requested_at__isnull=False).exists()


def test_another_change_of_a_user_stops_nothing(alice: User, runs: list[RunRecord]) -> None:
    alice.user_permissions.set(Permission.objects.all()[:1])
    alice.first_name = "Alice"
    alice.save()
    assert owners.stop_all_of_inactive() == 0
    assert not RunRecord.objects.filter(stop_requested_at__isnull=False).exists()


def test_a_run_that_starts_just_after_stops_as_well(alice: User) -> None:
    by_save(alice)
    late = make_run(alice)
    assert owners.stop_all_of_inactive() == 1
    assert RunRecord.objects.get(pk=late.pk).status == Status.STOPPED
