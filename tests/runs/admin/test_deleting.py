"""Deleting in the admin: what goes is counted, not read; a request removes a bounded amount."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runs.actions import owners
from runs.identity.models import Act, AuditEntry
from runs.models import DataStoreEntry, OwnerUsage, RunEvent, RunInput, RunRecord
from runs.ops import removal
from runs.quotas import ledger
from runs.status import Status
from tests.runs.admin.conftest import signed_in, staff
from tests.support.rows import make_run, make_worker

pytestmark = pytest.mark.django_db

RUNS = "/admin/runs/runrecord/"
USERS = "/admin/auth/user/"


def with_events(run: RunRecord, count: int) -> RunRecord:
    rows = [
        RunEvent(run=run, seq=seq, ts=timezone.now(), type="log", agent="a", depth=0)
        for seq in range(1, count + 1)
    ]
    RunEvent.objects.bulk_create(rows)
    RunRecord.objects.filter(pk=run.pk).update(last_seq=count, value_bytes=1_000, log_bytes=500)
    return run


@pytest.fixture
def owner(alice: User) -> User:
    root = with_events(make_run(alice, status=Status.SUCCESS), 30)
    with_events(make_run(alice, status=Status.ERROR, parent=root), 30)
    DataStoreEntry.objects.create(owner=alice, namespace="n", key="k", size_bytes=7)
    OwnerUsage.objects.create(owner=alice, stored_bytes=3_007, keys_count=1)
    return alice


class TestUser:
    def test_goes_with_all_that_is_owned_which_is_counted_before(
        self, admin_client: Client, owner: User
    ) -> None:
        page = admin_client.get(f"{USERS}{owner.pk}/delete/").content.decode()
        for words in ("Runs: 2", "Events: 60", "Data store entries: 1"):
            assert words in page
        assert str(RunRecord.objects.first()) not in page
        done = admin_client.post(f"{USERS}{owner.pk}/delete/", {"post": "yes"})
        assert done.status_code == 302
        for model in (RunRecord, RunInput, RunEvent, DataStoreEntry, OwnerUsage):
            assert not model.objects.exists()  # type: ignore[attr-defined]
        assert not User.objects.filter(pk=owner.pk).exists()

    def test_costs_as_many_queries_however_much_goes(
        self, admin_client: Client, owner: User
    ) -> None:
        def queries() -> list[str]:
            with CaptureQueriesContext(connection) as captured:
                admin_client.get(f"{USERS}{owner.pk}/delete/")
            return [query["sql"] for query in captured]

        few = queries()
        for _ in range(30):
            with_events(make_run(owner, status=Status.SUCCESS), 10)
        many = queries()
        assert len(many) == len(few)
        assert not [sql for sql in many if "runs_runevent" in sql]

    def test_many_at_once(self, admin_client: Client, owner: User) -> None:
        bob = User.objects.create(username="bob")
        form = {"action": "delete_selected", "_selected_action": [owner.pk, bob.pk], "post": "yes"}
        admin_client.post(USERS, form)
        assert not User.objects.filter(pk__in=[owner.pk, bob.pk]).exists()
        assert not RunRecord.objects.exists()

    def test_with_a_run_that_has_started_meanwhile_is_refused(
        self, admin_client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delete = removal.delete_owners

        def start_first(owners: Any) -> None:
            make_run(owner)
            delete(owners)

        monkeypatch.setattr(removal, "delete_owners", start_first)
        done = admin_client.post(f"{USERS}{owner.pk}/delete/", {"post": "yes"})
        assert done.status_code == 403
        assert RunEvent.objects.count() == 60  # nothing was deleted

    def test_says_before_how_many_runs_are_not_over(
        self, admin_client: Client, owner: User
    ) -> None:
        make_run(owner)
        make_run(owner, status=Status.RUNNING, worker=make_worker())
        page = admin_client.get(f"{USERS}{owner.pk}/delete/").content.decode()
        assert "Runs that are not over, and are asked to stop first: 2" in page
        assert "I’m sure" in html.unescape(page)
        assert not RunRecord.objects.filter(stop_requested_at__isnull=False).exists()

    def test_goes_at_once_when_its_runs_stop_at_once(
        self, admin_client: Client, owner: User
    ) -> None:
        make_run(owner)
        done = admin_client.post(f"{USERS}{owner.pk}/delete/", {"post": "yes"})
        assert (done.status_code, done["location"]) == (302, USERS)
        assert not User.objects.filter(pk=owner.pk).exists()
        *_, stop, deletion = AuditEntry.objects.order_by("id")
        assert (stop.act, stop.actor) == (Act.STOP, "admin")
        assert "Via: admin. Reason: the owner's account is to be deleted" in stop.detail
        assert (deletion.act, deletion.actor, deletion.subject) == (Act.ACCOUNT, "admin", "alice")

    @pytest.mark.parametrize("is_bulk", [False, True], ids=["one", "bulk"])
    def test_stays_until_its_runs_are_over(
        self, admin_client: Client, owner: User, monkeypatch: pytest.MonkeyPatch, is_bulk: bool
    ) -> None:
        monkeypatch.setattr(owners, "WAIT_SECONDS", 0.2)
        worker = make_worker()
        root = make_run(owner, status=Status.RUNNING, worker=worker)
        make_run(owner, status=Status.RUNNING, worker=worker, parent=root)

        def press_delete() -> str:
            form: dict[str, Any] = {"post": "yes"}
            if is_bulk:
                form |= {"action": "delete_selected", "_selected_action": [owner.pk]}
            address = USERS if is_bulk else f"{USERS}{owner.pk}/delete/"
            return html.unescape(admin_client.post(address, form, follow=True).content.decode())

        assert "Nothing was deleted: 2 runs of alice are still stopping." in press_delete()
        assert RunRecord.objects.count() == 4
        assert RunEvent.objects.count() == 60
        asked = {
            run.stop_via: run.stop_requested_by_name
            for run in RunRecord.objects.filter(stop_requested_at__isnull=False)
        }
        assert asked == {"admin": "admin", "parent": "admin"}
        entries = AuditEntry.objects.filter(act=Act.STOP, actor="admin")
        assert [entry.subject for entry in entries] == [str(root)]
        assert LogEntry.objects.filter(object_id=str(root.pk)).count() == 1

        press_delete()
        assert AuditEntry.objects.filter(act=Act.STOP).count() == 1, "it was asked already"
        RunRecord.objects.active().update(status=Status.STOPPED, finished_at=timezone.now())
        press_delete()
        assert not User.objects.filter(pk=owner.pk).exists()
        assert not RunRecord.objects.exists()

    def test_is_waited_for_while_its_runs_stop(
        self, admin_client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(owner, status=Status.RUNNING, worker=make_worker())
        looks: list[float] = []

        def end_it(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                found = RunRecord.objects.filter(pk=run.pk)
                found.update(status=Status.STOPPED, finished_at=timezone.now())

        monkeypatch.setattr(owners.time, "sleep", end_it)
        admin_client.post(f"{USERS}{owner.pk}/delete/", {"post": "yes"})
        assert len(looks) == 3
        assert not User.objects.filter(pk=owner.pk).exists()

    @pytest.mark.parametrize("is_bulk", [False, True], ids=["one", "bulk"])
    def test_that_may_not_be_deleted_stops_nothing(self, owner: User, is_bulk: bool) -> None:
        clerk = staff("clerk", "delete_datastoreentry", "view_datastoreentry")
        clerk.user_permissions.add(
            *Permission.objects.filter(codename__in=["delete_user", "view_user"])
        )
        run = make_run(owner)
        form: dict[str, Any] = {"post": "yes"}
        if is_bulk:
            form |= {"action": "delete_selected", "_selected_action": [owner.pk]}
        address = USERS if is_bulk else f"{USERS}{owner.pk}/delete/"
        for client in (signed_in(clerk), signed_in(staff("viewer"))):
            assert client.post(address, form).status_code == 403
        run.refresh_from_db()
        assert (run.status, run.stop_requested_at) == (Status.QUEUED, None)

    def test_with_too_many_events_is_refused_with_a_hint(
        self, admin_client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(removal, "MOST_EVENTS", 59)
        page = admin_client.get(f"{USERS}{owner.pk}/delete/").content.decode()
        assert "delete_old_runs --older-than 0h --owner alice" in page
        admin_client.post(f"{USERS}{owner.pk}/delete/", {"post": "yes"})
        assert RunRecord.objects.count() == 2

    def test_needs_the_right_to_delete_what_is_owned(self, owner: User) -> None:
        clerk = staff("clerk", "delete_datastoreentry", "view_datastoreentry")
        clerk.user_permissions.add(
            *Permission.objects.filter(codename__in=["delete_user", "view_user"])
        )
        answer = signed_in(clerk).post(f"{USERS}{owner.pk}/delete/", {"post": "yes"})
        assert answer.status_code == 403
        assert RunRecord.objects.count() == 2


class TestRuns:
    def test_go_with_those_below_and_the_owner_has_room_again(
        self, admin_client: Client, owner: User, django_capture_on_commit_callbacks: Any
    ) -> None:
        root = RunRecord.objects.get(parent=None)
        page = admin_client.get(f"{RUNS}{root.pk}/delete/").content.decode()
        assert "Events: 60" in page
        with django_capture_on_commit_callbacks(execute=True):
            admin_client.post(f"{RUNS}{root.pk}/delete/", {"post": "yes"})
        assert not RunRecord.objects.exists()
        assert not RunEvent.objects.exists()
        assert ledger.usage(owner.pk).stored_bytes == 7

    def test_of_a_large_tree_are_not_all_named(self, admin_client: Client, owner: User) -> None:
        root = RunRecord.objects.get(parent=None)
        for _ in range(60):
            make_run(owner, status=Status.SUCCESS, parent=root)
        page = admin_client.get(f"{RUNS}{root.pk}/delete/").content.decode()
        assert str(root) in page
        assert "12 more" in page

    def test_with_too_many_events_are_refused(
        self, admin_client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(removal, "MOST_EVENTS", 59)
        root = RunRecord.objects.get(parent=None)
        page = admin_client.get(f"{RUNS}{root.pk}/delete/").content.decode()
        assert "60 events: at most 59 go at once. Choose fewer runs." in page
        admin_client.post(f"{RUNS}{root.pk}/delete/", {"post": "yes"})
        assert RunRecord.objects.count() == 2


def test_entries_that_are_deleted_give_room_back(
    admin_client: Client, owner: User, django_capture_on_commit_callbacks: Any
) -> None:
    entry = DataStoreEntry.objects.get()
    form = {"action": "delete_selected", "_selected_action": [entry.pk], "post": "yes"}
    with django_capture_on_commit_callbacks(execute=True):
        admin_client.post("/admin/runs/datastoreentry/", form)
    assert not DataStoreEntry.objects.exists()
    used = ledger.usage(owner.pk)
    assert (used.stored_bytes, used.keys_count) == (3_000, 0)
