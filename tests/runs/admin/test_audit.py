"""Django's LogEntry of each stop: the user, the run and the reason."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db import DatabaseError, transaction
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from agents.cancellation import StopMode
from runs.actions import stopping
from runs.actions.audit import stop_message
from runs.exceptions import RunAlreadyFinished, StopNotPermitted
from runs.models import RunRecord, StopVia
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db


def entries() -> list[LogEntry]:
    return list(LogEntry.objects.order_by("pk"))


def running(owner: User, **fields: Any) -> RunRecord:
    return make_run(owner, status=Status.RUNNING, worker=make_worker(), **fields)


@pytest.mark.parametrize("via", [StopVia.API, StopVia.PAGE, StopVia.ADMIN, StopVia.CLI])
def test_every_way_to_stop_is_logged(via: StopVia, alice: User) -> None:
    run = running(alice)
    stopping.request_stop(run.pk, via=via, by=alice, reason="wrong document")
    (entry,) = entries()
    assert entry.user == alice
    assert entry.get_edited_object() == run
    assert entry.object_repr == str(run)
    assert entry.action_flag == CHANGE
    said = entry.get_change_message()
    assert f"Via: {via.value}." in said
    assert "Mode: graceful." in said
    assert said.endswith("Reason: wrong document")


def test_a_reason_that_looks_like_json_of_the_admin_is_kept(alice: User) -> None:
    said = stop_message(StopVia.API, StopMode.GRACEFUL, '[{"added": {}}]')
    entry = LogEntry(change_message=said)
    assert entry.get_change_message() == said


def test_a_repeat_is_not_logged(alice: User) -> None:
    run = running(alice)
    for _ in range(3):
        stopping.request_stop(run.pk, via=StopVia.API, by=alice)
    assert len(entries()) == 1


def test_a_refused_stop_is_not_logged(alice: User) -> None:
    over, others = make_run(alice, status=Status.SUCCESS), running(alice)
    with pytest.raises(RunAlreadyFinished):
        stopping.request_stop(over.pk, via=StopVia.API, by=alice)
    with pytest.raises(StopNotPermitted):
        stopping.request_stop(others.pk, via=StopVia.API, by=None)
    with pytest.raises(RunRecord.DoesNotExist):
        stopping.request_stop(others.pk, via=StopVia.API, by=User.objects.create_user("bob"))
    assert entries() == []


def test_runs_that_stop_with_their_caller_are_not_logged(alice: User) -> None:
    root = running(alice)
    running(alice, parent=root)
    stopping.request_stop(root.pk, via=StopVia.API, by=alice)
    assert [uuid.UUID(entry.object_id or "") for entry in entries()] == [root.pk]


def test_a_stop_without_a_person_is_on_the_receipt_only(alice: User) -> None:
    run = running(alice)
    stopping.request_stop(run.pk, via=StopVia.CLI, check_permission=False)
    run.refresh_from_db()
    assert run.stop_requested
    assert entries() == []


def test_many_stops_are_logged_with_one_statement(
    alice: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    runs = [running(alice) for _ in range(20)]
    asked = running(alice, **requested(alice))
    over = make_run(alice, status=Status.SUCCESS)
    with django_assert_max_num_queries(20):
        stopping.stop_many(
            [run.pk for run in [*runs, asked, over]], by=alice, via=StopVia.ADMIN, reason="all"
        )
    assert {entry.object_id for entry in entries()} == {str(run.pk) for run in runs}


def test_the_entry_and_the_request_are_one_transaction(
    alice: User, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running(alice)
    monkeypatch.setattr("runs.actions.audit.CHANGE", -1)  # the database refuses it
    for user in (alice, operator):  # an owner's stop is written by a statement of its own
        with pytest.raises(DatabaseError), transaction.atomic():
            stopping.request_stop(run.pk, via=StopVia.API, by=user)
        run.refresh_from_db()
        assert not run.stop_requested


def test_the_history_of_a_run_shows_its_stop(operator_client: Client, alice: User) -> None:
    run = running(alice)
    stopping.request_stop(run.pk, via=StopVia.API, by=alice, reason="<b>wrong</b>")
    page = operator_client.get(f"/admin/runs/runrecord/{run.pk}/history/").content.decode()
    assert "Via: api." in page
    assert "Reason: &lt;b&gt;wrong&lt;/b&gt;" in page
