"""Permissions in the admin: what a user must not do is not offered, and refused."""

from __future__ import annotations

import uuid

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from runs.models import RunRecord
from runs.ops.accounts import GROUP_NAME, create_missing_group
from runs.status import Status
from tests.support.rows import make_run, make_worker

from .conftest import signed_in, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/runrecord/"


@pytest.fixture
def running(alice: User) -> RunRecord:
    return make_run(alice, status=Status.RUNNING, worker=make_worker())


def stop_address(run: RunRecord) -> str:
    return f"{LIST}{run.pk}/stop/"


class TestTheGroup:
    def make(self) -> Group:
        create_missing_group(apps.get_app_config("runs"), using="default", apps=apps)
        return Group.objects.get(name=GROUP_NAME)

    def test_may_view_stop_and_prioritise_and_nothing_else(self) -> None:
        Group.objects.filter(name=GROUP_NAME).delete()
        codenames = self.make().permissions.values_list("codename", flat=True)
        assert set(codenames) == {
            "view_runrecord",
            "stop_runrecord",
            "prioritise_runrecord",
            "raise_limits",
            "view_workerrecord",
            "view_datastoreentry",
            "view_ownerusage",
        }

    def test_is_made_once_and_keeps_what_an_admin_has_changed(self) -> None:
        group = self.make()
        group.permissions.set(Permission.objects.filter(codename="view_runrecord"))
        assert self.make().permissions.count() == 1
        assert Group.objects.filter(name=GROUP_NAME).count() == 1


class TestStaffWithoutAnyPermission:
    def test_finds_no_runs_in_the_admin(self, running: RunRecord) -> None:
        client = signed_in(staff("nobody"))
        assert "runrecord" not in client.get("/admin/").content.decode()
        for address in (LIST, f"{LIST}refresh/", f"{LIST}{running.pk}/change/"):
            assert client.get(address).status_code == 403
        assert client.get(f"{LIST}stop-matching/").status_code == 404
        assert client.post(stop_address(running)).status_code == 404
        assert client.post(f"{LIST}stop/").status_code == 404

    def test_finds_no_more_with_djangos_permission_to_change(self, running: RunRecord) -> None:
        client = signed_in(staff("changer", "change_runrecord", "add_runrecord"))
        assert client.get(LIST).status_code == 403


class TestAViewer:
    def test_finds_neither_button_nor_action(self, viewer: User, running: RunRecord) -> None:
        page = signed_in(viewer).get(LIST).content.decode()
        assert str(running.pk) in page
        assert "run-stop" not in page
        assert "stop_selected" not in page
        assert "stop-matching" not in page

    def test_is_refused_at_each_address(self, viewer: User, running: RunRecord) -> None:
        client = signed_in(viewer)
        assert client.post(stop_address(running)).status_code == 403
        assert client.get(f"{LIST}stop-matching/").status_code == 403
        assert client.post(f"{LIST}stop/").status_code == 403
        assert client.post(f"{LIST}stop-matching/").status_code == 403
        running.refresh_from_db()
        assert not running.stop_requested

    def test_may_still_stop_own_runs(self, viewer: User) -> None:
        own = make_run(viewer)
        client = signed_in(viewer)
        assert stop_address(own) in client.get(LIST).content.decode()
        client.post(stop_address(own))
        own.refresh_from_db()
        assert own.status == Status.STOPPED


class TestEveryUser:
    def test_who_is_not_staff_is_sent_to_sign_in(self, alice: User, running: RunRecord) -> None:
        for client in (Client(), signed_in(alice)):
            answer = client.post(stop_address(running))
            assert answer.status_code == 302
            assert "/admin/login/" in answer["Location"]

    def test_needs_the_csrf_token(self, operator: User, running: RunRecord) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(operator)
        assert client.post(stop_address(running)).status_code == 403

    def test_can_edit_nothing(self, admin_client: Client, running: RunRecord) -> None:
        address = f"{LIST}{running.pk}/change/"
        page = admin_client.get(address)
        assert page.status_code == 200
        assert b'name="_save"' not in page.content
        assert admin_client.post(address, {"agent": "other"}).status_code == 403
        assert admin_client.get(f"{LIST}add/").status_code == 403

    def test_a_get_stops_nothing(self, operator_client: Client, running: RunRecord) -> None:
        assert operator_client.get(stop_address(running)).status_code == 404
        running.refresh_from_db()
        assert not running.stop_requested

    def test_a_missing_run_is_not_found(self, operator_client: Client) -> None:
        assert operator_client.post(f"{LIST}{uuid.uuid4()}/stop/").status_code == 404


class TestDeleting:
    def delete(self, client: Client, *runs: RunRecord) -> str:
        form = {"action": "delete_selected", "_selected_action": [str(run.pk) for run in runs]}
        page = client.post(LIST, form, follow=True).content.decode()
        if "post" in page:
            page += client.post(LIST, {**form, "post": "yes"}, follow=True).content.decode()
        return page

    def test_is_not_offered_to_operators(self, operator_client: Client, alice: User) -> None:
        over = make_run(alice, status=Status.SUCCESS)
        assert "delete_selected" not in operator_client.get(LIST).content.decode()
        assert operator_client.post(f"{LIST}{over.pk}/delete/", {"post": "yes"}).status_code == 403

    def test_of_a_finished_run_needs_djangos_permission(self, alice: User) -> None:
        client = signed_in(staff("cleaner", "view_runrecord", "delete_runrecord"))
        over = make_run(alice, status=Status.SUCCESS)
        asked = client.get(f"{LIST}{over.pk}/delete/")
        assert asked.status_code == 200
        client.post(f"{LIST}{over.pk}/delete/", {"post": "yes"})
        assert not RunRecord.objects.filter(pk=over.pk).exists()

    def test_of_an_active_run_is_refused(self, admin_client: Client, running: RunRecord) -> None:
        address = f"{LIST}{running.pk}/delete/"
        assert admin_client.post(address, {"post": "yes"}).status_code == 403
        assert RunRecord.objects.filter(pk=running.pk).exists()

    def test_of_many_leaves_out_active_runs_and_names_them(
        self, admin_client: Client, running: RunRecord, alice: User
    ) -> None:
        over = make_run(alice, status=Status.SUCCESS)
        said = self.delete(admin_client, running, over)
        assert str(running) in said.partition("Not deleted")[2]
        assert list(RunRecord.objects.all()) == [running]

    def test_of_a_run_in_an_active_tree_is_refused(self, admin_client: Client, alice: User) -> None:
        worker = make_worker()
        root = make_run(alice, status=Status.RUNNING, worker=worker)
        child = make_run(alice, status=Status.SUCCESS, parent=root)
        self.delete(admin_client, child)
        assert RunRecord.objects.filter(pk=child.pk).exists()
        assert admin_client.get(f"{LIST}{child.pk}/delete/").status_code == 403

    def test_of_a_tree_names_the_runs_that_go_with_it(
        self, admin_client: Client, alice: User
    ) -> None:
        root = make_run(alice, status=Status.SUCCESS)
        child = make_run(alice, status=Status.SUCCESS, parent=root)
        page = admin_client.get(f"{LIST}{root.pk}/delete/").content.decode()
        assert str(child) in page
