"""The workers in the admin: their state, and draining them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runs.models import WorkerRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker

from .conftest import signed_in, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/workerrecord/"


@pytest.fixture
def drainer(db: None) -> Client:
    return signed_in(staff("drainer", "view_workerrecord", "change_workerrecord"))


def address(worker: WorkerRecord, what: str) -> str:
    return f"{LIST}{worker.pk}/{what}/"


def cell(client: Client, worker: WorkerRecord, name: str, **query: str) -> str:
    page = client.get(LIST, query).content.decode()
    (line,) = [row for row in page.split("<tr>") if f"{worker.pk}/change/" in row]
    found = re.search(rf'<t[dh] class="field-{name}[^"]*">(.*?)</t[dh]>', line, re.DOTALL)
    assert found, line
    return found[1]


class TestTheList:
    def test_shows_the_state_of_a_worker_by_a_sign_and_a_word(
        self, operator_client: Client
    ) -> None:
        now = timezone.now()
        alive = make_worker()
        draining = make_worker(draining_at=now)
        silent = make_worker(heartbeat_at=now - timedelta(minutes=5))
        gone = make_worker(lost_at=now, draining_at=now)
        words = {
            worker: re.sub(
                "<[^>]+>", " ", cell(operator_client, worker, "status", presence="all")
            ).split()
            for worker in (alive, draining, silent, gone)
        }
        assert list(words.values()) == [["●", "Alive"], ["◐", "Draining"], ["?", "Silent"],
                                        ["○", "Gone"]]  # fmt: skip

    def test_counts_the_runs_of_a_worker_and_links_to_them(
        self, operator_client: Client, alice: User
    ) -> None:
        worker, other = make_worker(), make_worker()
        for _ in range(2):
            make_run(alice, status=Status.RUNNING, worker=worker)
        make_run(alice, status=Status.SUCCESS, worker=worker)
        assert f'?worker={worker.pk}&status=active">2 of 10<' in cell(
            operator_client, worker, "in_flight"
        )
        assert cell(operator_client, other, "in_flight") == "0 of 10"

    def test_names_the_limit_of_a_worker(self, operator_client: Client) -> None:
        worker = make_worker(limited_by="1,024 file descriptors")
        expected = "0 of 10 (limited by 1,024 file descriptors)"
        assert cell(operator_client, worker, "in_flight") == expected
        gone = make_worker(limited_by="1,024 file descriptors", lost_at=timezone.now())
        assert cell(operator_client, gone, "in_flight", presence="all") == "0 of 10"

    def test_leaves_out_workers_that_are_gone_unless_asked(self, operator_client: Client) -> None:
        alive, gone = make_worker(), make_worker(lost_at=timezone.now())
        found = {
            presence: [
                worker in operator_client.get(LIST, {"presence": presence}).content.decode()
                for worker in (f"{alive.pk}/change/", f"{gone.pk}/change/")
            ]
            for presence in ("", "gone", "all")
        }
        assert found == {"": [True, False], "gone": [False, True], "all": [True, True]}

    def test_takes_as_many_queries_for_many_as_for_one(self, drainer: Client, alice: User) -> None:
        def count() -> int:
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert drainer.get(LIST).status_code == 200
            return len(queries)

        make_run(alice, status=Status.RUNNING, worker=make_worker())
        for_one = count()
        for _ in range(20):
            make_run(alice, status=Status.RUNNING, worker=make_worker())
        assert count() == for_one

    def test_writes_a_hostile_name_as_text(self, drainer: Client) -> None:
        worker = make_worker(name="<img src=x onerror=alert(1)>")
        for page in (LIST, f"{LIST}{worker.pk}/change/"):
            text = drainer.get(page).content.decode()
            assert "<img src=x" not in text
            assert "&lt;img src=x" in text


class TestDraining:
    def test_needs_a_permission_of_its_own(self, operator_client: Client) -> None:
        worker = make_worker()
        page = operator_client.get(LIST).content.decode()
        assert "worker-drain" not in page
        assert 'value="drain"' not in page
        for what in ("drain", "take"):
            assert operator_client.post(address(worker, what)).status_code == 403
        worker.refresh_from_db()
        assert worker.draining_at is None

    def test_is_not_found_without_the_permission_to_view(self) -> None:
        client = signed_in(staff("changer", "change_workerrecord"))
        assert client.get(LIST).status_code == 403
        assert client.post(address(make_worker(), "drain")).status_code == 404

    def test_can_be_taken_back_and_is_logged(self, drainer: Client) -> None:
        worker = make_worker()
        assert "worker-drain" in cell(drainer, worker, "drain_button")
        drainer.post(address(worker, "drain"))
        worker.refresh_from_db()
        assert worker.draining_at is not None
        assert "worker-take" in cell(drainer, worker, "drain_button")
        drainer.post(address(worker, "take"))
        worker.refresh_from_db()
        assert worker.draining_at is None
        said = LogEntry.objects.order_by("pk").values_list("change_message", "user__username")
        assert list(said) == [
            ("Asked to drain.", "drainer"),
            ("Asked to take runs again.", "drainer"),
        ]

    def test_of_many_counts_the_workers_that_were_left(self, drainer: Client) -> None:
        fresh, draining = make_worker(), make_worker(draining_at=timezone.now())
        form = {"action": "drain", "_selected_action": [str(fresh.pk), str(draining.pk)]}
        page = drainer.post(LIST, form, follow=True).content.decode()
        assert "1 worker was left as it was" in page
        fresh.refresh_from_db()
        assert fresh.draining_at is not None
        assert LogEntry.objects.count() == 1

    def test_of_a_gone_worker_changes_nothing(self, drainer: Client) -> None:
        gone = make_worker(lost_at=timezone.now())
        page = drainer.post(address(gone, "drain"), follow=True).content.decode()
        assert "was left as it was" in page
        gone.refresh_from_db()
        assert gone.draining_at is None
        assert not LogEntry.objects.exists()

    def test_needs_a_post(self, drainer: Client) -> None:
        worker = make_worker()
        assert drainer.get(address(worker, "drain")).status_code == 404
        worker.refresh_from_db()
        assert worker.draining_at is None


def test_workers_cannot_be_edited_added_or_deleted(admin_client: Client) -> None:
    worker = make_worker()
    change = f"{LIST}{worker.pk}/change/"
    page = admin_client.get(change)
    assert page.status_code == 200
    assert b'name="_save"' not in page.content
    assert admin_client.post(change, {"name": "other"}).status_code == 403
    assert admin_client.post(f"{LIST}{worker.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{LIST}add/").status_code == 403
    worker.refresh_from_db()
    assert worker.name != "other"
