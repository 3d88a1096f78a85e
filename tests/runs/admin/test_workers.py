"""The workers in the admin: what is said of them, and who may drain one."""

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
    def test_says_how_a_worker_is_with_a_sign_and_a_word(self, desk: Client) -> None:
        now = timezone.now()
        alive = make_worker()
        draining = make_worker(draining_at=now)
        silent = make_worker(heartbeat_at=now - timedelta(minutes=5))
        gone = make_worker(lost_at=now, draining_at=now)
        words = {
            worker: re.sub("<[^>]+>", " ", cell(desk, worker, "status", presence="all")).split()
            for worker in (alive, draining, silent, gone)
        }
        assert list(words.values()) == [["●", "Alive"], ["◐", "Draining"], ["?", "Silent"],
                                        ["○", "Gone"]]  # fmt: skip

    def test_counts_what_is_in_flight_and_leads_there(self, desk: Client, alice: User) -> None:
        worker, other = make_worker(), make_worker()
        for _ in range(2):
            make_run(alice, status=Status.RUNNING, worker=worker)
        make_run(alice, status=Status.SUCCESS, worker=worker)
        assert f'?worker={worker.pk}&status=active">2 of 10<' in cell(desk, worker, "in_flight")
        assert cell(desk, other, "in_flight") == "0 of 10"

    def test_says_what_keeps_a_worker_from_more(self, desk: Client) -> None:
        worker = make_worker(limited_by="1,024 file descriptors")
        expected = "0 of 10 (limited by 1,024 file descriptors)"
        assert cell(desk, worker, "in_flight") == expected
        gone = make_worker(limited_by="1,024 file descriptors", lost_at=timezone.now())
        assert cell(desk, gone, "in_flight", presence="all") == "0 of 10"

    def test_leaves_out_the_gone_until_they_are_asked_for(self, desk: Client) -> None:
        alive, gone = make_worker(), make_worker(lost_at=timezone.now())
        found = {
            presence: [
                worker in desk.get(LIST, {"presence": presence}).content.decode()
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
    def test_takes_a_permission_of_its_own(self, desk: Client) -> None:
        worker = make_worker()
        page = desk.get(LIST).content.decode()
        assert "worker-drain" not in page
        assert 'value="drain"' not in page
        for what in ("drain", "take"):
            assert desk.post(address(worker, what)).status_code == 403
        worker.refresh_from_db()
        assert worker.draining_at is None

    def test_is_not_there_for_who_may_see_no_workers(self) -> None:
        client = signed_in(staff("changer", "change_workerrecord"))
        assert client.get(LIST).status_code == 403
        assert client.post(address(make_worker(), "drain")).status_code == 404

    def test_is_done_taken_back_and_logged(self, drainer: Client) -> None:
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

    def test_of_many_at_once_says_which_were_left(self, drainer: Client) -> None:
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

    def test_is_nothing_that_a_link_can_do(self, drainer: Client) -> None:
        worker = make_worker()
        assert drainer.get(address(worker, "drain")).status_code == 404
        worker.refresh_from_db()
        assert worker.draining_at is None


def test_nobody_edits_adds_or_deletes_a_worker(admin_client: Client) -> None:
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
