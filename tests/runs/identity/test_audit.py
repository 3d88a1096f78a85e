"""The audit log: what is in it, once, and what can't be taken out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.db import DatabaseError, transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from runs.actions import limits, stopping
from runs.identity import audit, tokens
from runs.identity.actors import Actor
from runs.identity.models import AuditEntry
from runs.models import RunRecord, StopVia
from runs.status import Status
from runs.wire import get_for_wire, run_as_dict
from tests.support.rows import make_run, make_worker

pytestmark = pytest.mark.django_db

ALICE = {"username": "alice", "password": "alice's password"}
FROM = {"REMOTE_ADDR": "192.0.2.7"}


@pytest.fixture(autouse=True)
def users_are_there(alice: User) -> None:
    assert [one[2:] for one in entries("account")] == [("alice", "Created. is_active")]


def entries(act: str) -> list[tuple[str, str, str, str]]:
    found = AuditEntry.objects.filter(act=act).order_by("pk")
    return [(one.actor, one.address, one.subject, one.detail) for one in found]


def sign_in_by(door: str) -> Callable[[str], Any]:
    def sign_in(password: str) -> Any:
        if door == "/api-token":
            return APIClient().post(door, {**ALICE, "password": password}, **FROM)
        return Client().post(door, {**ALICE, "password": password}, **FROM)  # type: ignore[arg-type]

    return sign_in


class TestStops:
    def test_the_operator_s_name_stays_when_the_operator_is_deleted(self, alice: User) -> None:
        operator = User.objects.create_user("operator")
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        below = make_run(alice, status=Status.RUNNING, worker=make_worker(), parent=run)
        operator.user_permissions.set(Permission.objects.filter(codename__endswith="_runrecord"))
        stopping.request_stop(run.pk, via=StopVia.ADMIN, by=operator, reason="enough")
        operator.delete()
        assert not LogEntry.objects.exists()
        for one in (run, below):
            stop = run_as_dict(get_for_wire(one.pk))["stop"]
            assert stop is not None
            assert stop["requested_by"] == "operator"
        ((actor, _, subject, detail),) = entries("stop")
        assert (actor, subject) == ("operator", str(run))
        assert detail.endswith("Via: admin. Reason: enough")

    def test_has_the_client_s_address(self, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        browser = APIClient()
        browser.force_login(alice)
        assert browser.post(f"/runs/{run.pk}/stop", **FROM).status_code == 202
        assert [one[:3] for one in entries("stop")] == [("alice", "192.0.2.7", str(run))]
        assert browser.post(f"/runs/{run.pk}/stop", **FROM).status_code == 202
        assert len(entries("stop")) == 1, "a repeat changes nothing"

    def test_has_those_of_the_command_line_too(self, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        stopping.request_stop(run.pk, via=StopVia.CLI, check_permission=False)
        assert [one[:3] for one in entries("stop")] == [("", "", str(run))]

    def test_is_one_transaction_with_the_stop(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        monkeypatch.setattr("runs.actions.audit.current_address", lambda: None)  # NOT NULL
        with pytest.raises(DatabaseError), transaction.atomic():
            stopping.request_stop(run.pk, via=StopVia.API, by=alice)
        assert not RunRecord.objects.get(pk=run.pk).stop_requested


class TestLimits:
    def test_a_change_outlives_the_user_who_made_it(self, alice: User) -> None:
        operator = User.objects.create_user("operator")
        operator.user_permissions.set(
            Permission.objects.filter(codename__in=["view_runrecord", "raise_limits"])
        )
        worker = make_worker()
        run = make_run(alice, status=Status.RUNNING, worker=worker, idle_seconds=5.0)
        browser = APIClient()
        browser.force_login(operator)
        for _ in range(2):  # a repeat changes nothing
            answer = browser.post(
                f"/runs/{run.pk}/limits", {"idle_seconds": 60}, format="json", **FROM
            )
            assert answer.status_code == 200
        operator.delete()
        detail = "Changed limits. idle_seconds: 5.0 -> 60.0"
        assert entries("limits") == [("operator", "192.0.2.7", str(run), detail)]

    def test_an_entry_is_one_transaction_with_the_change(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker(), idle_seconds=5.0)
        monkeypatch.setattr("runs.actions.audit.current_address", lambda: None)  # NOT NULL
        with pytest.raises(DatabaseError), transaction.atomic():
            limits.change_limits(run.pk, {"idle_seconds": 1.0}, by=alice)
        run.refresh_from_db()
        assert run.idle_seconds == 5.0


class TestSignIns:
    @pytest.mark.parametrize("door", ["/api-token", "/accounts/login/", "/admin/login/"])
    def test_a_failure_is_counted_by_account_address_and_minute(self, door: str) -> None:
        for _ in range(3):
            sign_in_by(door)("wrong")
        found = AuditEntry.objects.filter(act="sign_in_failed")
        assert sum(one.count for one in found) == 3
        assert len(found) <= 2, "a minute may end meanwhile"
        assert {(one.actor, one.address, one.detail) for one in found} == {
            ("alice", "192.0.2.7", "")
        }

    def test_names_that_no_user_has_fill_nothing(self) -> None:
        for number in range(20):
            body = {"username": f"my password {number}", "password": "x"}
            assert APIClient().post("/api-token", body, **FROM).status_code == 401
        found = AuditEntry.objects.filter(act="sign_in_failed")
        assert len(found) <= 2
        assert sum(one.count for one in found) == 20
        assert {one.actor for one in found} == {""}

    def test_a_session_has_its_sign_in_and_sign_out(self) -> None:
        browser = Client()
        browser.post("/accounts/login/", ALICE, **FROM)  # type: ignore[arg-type]
        browser.post("/accounts/logout/", **FROM)  # type: ignore[arg-type]
        assert entries("sign_in") == entries("sign_out") == [("alice", "192.0.2.7", "", "")]

    def test_a_token_is_noted_with_its_maker(self) -> None:
        key = sign_in_by("/api-token")(ALICE["password"]).json()["token"]
        assert entries("token_created") == [("alice", "192.0.2.7", f"{key[:8]}... of alice", "")]
        assert not entries("sign_in_failed")


class TestRights:
    @pytest.fixture
    def root(self) -> APIClient:
        browser = APIClient()
        browser.force_login(User.objects.create_superuser("root"))
        return browser

    def test_flags_are_noted_with_who_changed_them(self, alice: User, root: APIClient) -> None:
        group = Group.objects.create(name="readers")
        form = {
            "username": "alice", "is_active": "on", "is_staff": "on", "groups": [group.pk],
            "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00",
        }  # fmt: skip
        address = f"/admin/auth/user/{alice.pk}/change/"
        assert root.post(address, form, format="multipart", **FROM).status_code == 302
        assert entries("rights") == [
            ("root", "192.0.2.7", "alice", "is_staff False -> True"),
            ("root", "192.0.2.7", "alice", "groups +readers"),
        ]

    def test_relations_are_noted_from_either_side(self, alice: User) -> None:
        group = Group.objects.create(name="readers")
        may = Permission.objects.get(codename="view_runrecord")
        alice.groups.add(group)
        alice.groups.add(group)  # nothing new
        group.user_set.remove(alice)
        alice.user_permissions.set([may])
        alice.user_permissions.clear()
        group.permissions.add(may)
        group.delete()
        assert [(one[2], one[3]) for one in entries("rights")] == [
            ("alice", "groups +readers"),
            ("alice", "groups -readers"),
            ("alice", f"permissions +{may}"),
            ("alice", f"permissions -{may}"),
            ("group readers", f"permissions +{may}"),
            ("group readers", "Deleted."),
        ]

    def test_a_save_that_changes_no_right_is_none(self, alice: User) -> None:
        alice.first_name = "Alice"
        alice.save()
        alice.save(update_fields=["last_login"])
        assert not AuditEntry.objects.filter(act__in=["rights", "password"]).exists()

    def test_accounts_and_passwords(self, alice: User) -> None:
        tokens.create(alice)
        alice.set_password("new")
        alice.save()
        User.objects.create_superuser("root", password="x")
        alice.delete()
        assert entries("password") == [("", "", "alice", "API tokens ended: 1")]
        assert [one[2:] for one in entries("account")] == [
            ("alice", "Created. is_active"),
            ("root", "Created. is_active, is_staff, is_superuser"),
            ("alice", "Deleted."),
        ]


class TestTheTable:
    @pytest.mark.postgres
    def test_nothing_is_changed_or_deleted(self) -> None:
        audit.note_failure(Actor(1, "alice", "192.0.2.7"))
        audit.note_failure(Actor(1, "alice", "192.0.2.7"))
        rows = AuditEntry.objects.all()
        for change in (
            lambda: rows.update(actor="mallory"),
            lambda: rows.update(count=1),
            lambda: rows.delete(),
            lambda: rows.filter(pk=rows.latest("pk").pk).update(act="stop"),
        ):
            with pytest.raises(DatabaseError, match="can only be added to"), transaction.atomic():
                change()

    def test_old_entries_go_after_their_time(self, settings: Any) -> None:
        settings.RUNS = {**settings.RUNS, "AUDIT_KEEP_DAYS": 30}
        now = timezone.now()
        for days in (29, 31, 300):
            AuditEntry.objects.create(act="stop", at=now - timedelta(days=days), subject=f"{days}")
        assert audit.remove_old() == 2
        assert AuditEntry.objects.filter(act="stop").get().subject == "29"
        settings.RUNS = {**settings.RUNS, "AUDIT_KEEP_DAYS": 0}
        AuditEntry.objects.create(act="stop", at=now - timedelta(days=9999))
        assert audit.remove_old() == 0

    def test_the_admin_shows_it_and_changes_nothing(self) -> None:
        audit.note_failure(Actor(address="192.0.2.9"))
        entry = AuditEntry.objects.get(act="sign_in_failed")
        browser = Client()
        auditor = User.objects.create_user("auditor", is_staff=True)
        browser.force_login(auditor)
        list_ = "/admin/identity/auditentry/"
        assert browser.get(list_).status_code == 403
        auditor.user_permissions.set(
            Permission.objects.filter(codename__endswith="_auditentry")  # all four
        )
        shown = browser.get(f"{list_}?q=192.0.2.9").content.decode()
        assert "no such user" in shown
        assert f"{timezone.localtime(entry.at):%H:%M:%S %Z}<" in shown
        assert browser.get(f"{list_}?act=sign_in_failed&at__year=2000").status_code == 200
        page = browser.get(f"{list_}{entry.pk}/change/")
        assert page.status_code == 200
        assert "sign_in_failed" not in page.content.decode()  # its words, and not its code
        for address in ("add/", f"{entry.pk}/delete/"):
            assert browser.get(list_ + address).status_code == 403
        form = {"action": "delete_selected", "_selected_action": entry.pk, "post": "yes"}
        browser.post(list_, form)
        browser.post(f"{list_}{entry.pk}/change/", {"actor": "mallory"})
        assert AuditEntry.objects.get(pk=entry.pk).actor == ""


class TestTokensInTheAdmin:
    def test_an_operator_revokes_them_and_sees_no_key(self, alice: User) -> None:
        key, token = tokens.create(alice, name="leaked")
        operator = User.objects.create_user("operator", is_staff=True)
        operator.user_permissions.set(Permission.objects.filter(codename__endswith="_apitoken"))
        browser = Client()
        browser.force_login(operator)
        list_ = "/admin/identity/apitoken/"
        page = browser.get(list_).content.decode()
        assert "leaked" in page
        assert key not in page
        assert token.digest not in page
        form = {"action": "delete_selected", "_selected_action": str(token.pk), "post": "yes"}
        assert browser.post(list_, form, **FROM).status_code == 302  # type: ignore[arg-type]
        assert tokens.find(key) is None
        assert entries("token_revoked") == [
            ("operator", "192.0.2.7", f"{key[:8]}... (leaked) of alice", "")
        ]

    def test_the_keys_of_the_old_table_have_no_page(self) -> None:
        browser = Client()
        browser.force_login(User.objects.create_superuser("root"))
        assert browser.get("/admin/authtoken/tokenproxy/").status_code == 404
