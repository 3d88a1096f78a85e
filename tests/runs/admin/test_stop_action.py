"""Stopping in the admin: one run by its button, many by a page to confirm."""

from __future__ import annotations

import html
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from runs.models import RunInput, RunRecord, WorkerRecord, uuid7
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested

from .conftest import signed_in, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/runrecord/"
HOSTILE = "<script>alert(1)</script>"


def running(owner: User, **fields: Any) -> RunRecord:
    return make_run(owner, status=Status.RUNNING, worker=make_worker(), **fields)


def ask(client: Client, runs: Sequence[RunRecord], *, across: bool = False, query: str = "") -> str:
    """Choose the action for these runs, and return the page to confirm."""
    form = {"action": "stop_selected", "_selected_action": [str(run.pk) for run in runs]}
    answer = client.post(f"{LIST}{query}", {**form, "select_across": "1" if across else "0"})
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def confirm(client: Client, page: str, **given: str) -> str:
    """Send the form of a page to confirm, and return the page of outcomes."""
    found = re.search('<form method="post" action="([^"]+)" class="stop-form">', page)
    assert found, page
    form = {"runs": hidden(page, "runs"), "mode": "graceful", **given}
    answer = client.post(html.unescape(found[1]), form)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return found[1]


def counts(page: str) -> dict[str, int]:
    found = re.findall(r"<li><strong>(\d+)</strong> ([^<]+)</li>", page)
    return {words: int(number) for number, words in found}


def told(page: str) -> dict[str, str]:
    """Return the outcome of each run that the page lists."""
    return dict(re.findall(r'<tr data-run="([^"]+)"><td>([^<]+)</td>', page))


def asked_to_stop() -> set[uuid.UUID]:
    found = RunRecord.objects.filter(stop_requested_at__isnull=False)
    return set(found.values_list("pk", flat=True))


def insert_many(owner: User, count: int) -> None:
    worker: WorkerRecord = make_worker()
    now = timezone.now()
    new = [uuid7() for _ in range(count)]
    RunRecord.objects.bulk_create(
        RunRecord(
            id=id, root_id=id, owner=owner, agent="many", status=Status.RUNNING, worker=worker,
            attempt=1, created_at=now, started_at=now,
        )
        for id in new
    )  # fmt: skip
    RunInput.objects.bulk_create(RunInput(run_id=id, value={}) for id in new)


class TestTheButtonOfALine:
    def test_stops_and_leads_back_to_the_list_as_it_was(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice)
        before = f"http://testserver{LIST}?status=running"
        answer = operator_client.post(
            f"{LIST}{run.pk}/stop/", headers={"Referer": before}, follow=True
        )
        assert answer.redirect_chain == [(before, 302)]
        assert "is asked to stop" in answer.content.decode()
        run.refresh_from_db()
        assert run.stop_via == "admin"
        assert run.stop_requested_by is not None
        assert run.stop_requested_by.username == "operator"

    def test_leads_to_no_other_site(self, operator_client: Client, alice: User) -> None:
        headers = {"Referer": "https://elsewhere.example/"}
        answer = operator_client.post(f"{LIST}{running(alice).pk}/stop/", headers=headers)
        assert answer["Location"] == LIST

    def test_answers_a_script_with_json(self, operator_client: Client, alice: User) -> None:
        run, over = running(alice), make_run(alice, status=Status.SUCCESS)
        headers = {"Accept": "application/json"}
        assert operator_client.post(f"{LIST}{run.pk}/stop/", headers=headers).status_code == 202
        late = operator_client.post(f"{LIST}{over.pk}/stop/", headers=headers)
        assert late.status_code == 409
        assert late.json()["code"] == "run_already_finished"

    def test_says_so_when_the_run_had_finished_first(
        self, operator_client: Client, alice: User
    ) -> None:
        over = make_run(alice, status=Status.SUCCESS)
        page = operator_client.post(f"{LIST}{over.pk}/stop/", follow=True).content.decode()
        assert "had finished first" in page


class TestThePageToConfirm:
    def test_stops_nothing_by_itself(self, operator_client: Client, alice: User) -> None:
        ask(operator_client, [running(alice)])
        assert asked_to_stop() == set()

    def test_counts_the_runs_to_stop_and_the_finished_ones(
        self, operator_client: Client, alice: User
    ) -> None:
        runs = [running(alice), running(alice), make_run(alice, status=Status.SUCCESS)]
        page = ask(operator_client, runs)
        assert "<strong>2 runs</strong> will be asked to stop" in page
        assert "1 run is over already" in page

    def test_counts_a_selected_run_below_another_only_there(
        self, operator_client: Client, alice: User
    ) -> None:
        root = running(alice)
        child = running(alice, parent=root)
        grandchild = running(alice, parent=child)
        make_run(alice, status=Status.SUCCESS, parent=root)
        page = ask(operator_client, [root, grandchild])
        assert "<strong>1 run</strong> will be asked to stop" in page
        assert "and 2 runs that were called below" in page
        assert set(told(confirm(operator_client, page))) == {str(root.pk)}

    def test_takes_a_called_run_alone_if_its_caller_was_not_selected(
        self, operator_client: Client, alice: User
    ) -> None:
        root = running(alice)
        child = running(alice, parent=root)
        confirm(operator_client, ask(operator_client, [child]))
        assert asked_to_stop() == {child.pk}

    def test_offers_no_form_if_all_runs_are_over(
        self, operator_client: Client, alice: User
    ) -> None:
        page = ask(operator_client, [make_run(alice, status=Status.ERROR)])
        assert "None of these runs can be stopped" in page
        assert 'name="runs"' not in page

    def test_refuses_a_mode_that_there_is_not(self, operator_client: Client, alice: User) -> None:
        page = ask(operator_client, [running(alice)])
        again = confirm(operator_client, page, mode="kill")
        assert "Nothing was stopped yet" in again
        assert "<strong>1 run</strong> will be asked to stop" in again
        assert asked_to_stop() == set()

    def test_shows_hostile_names_as_text(self, operator_client: Client) -> None:
        owner = User.objects.create_user(HOSTILE)
        page = ask(operator_client, [running(owner, agent=HOSTILE)])
        assert HOSTILE not in page
        assert HOSTILE not in confirm(operator_client, page, reason=HOSTILE)


class TestThePageOfOutcomes:
    def test_has_one_outcome_for_each_run(self, operator_client: Client, alice: User) -> None:
        fresh, late = running(alice), running(alice)
        stopping = running(alice, **requested(alice))
        over = make_run(alice, status=Status.SUCCESS)
        page = ask(operator_client, [fresh, late, stopping, over])
        RunRecord.objects.filter(pk=late.pk).update(
            status=Status.SUCCESS, finished_at=timezone.now()
        )
        page = confirm(operator_client, page, reason="wrong document")
        assert told(page) == {
            str(fresh.pk): "accepted",
            str(late.pk): "had finished",
            str(stopping.pk): "was already stopping",
            str(over.pk): "had finished",
        }
        assert counts(page) == {"accepted": 1, "was already stopping": 1, "had finished": 2}
        fresh.refresh_from_db()
        assert (fresh.stop_via, fresh.stop_reason) == ("admin", "wrong document")
        assert LogEntry.objects.get().object_id == str(fresh.pk)

    def test_names_runs_that_were_deleted_meanwhile(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice)
        page = ask(operator_client, [run])
        RunRecord.objects.all().delete()
        assert told(confirm(operator_client, page)) == {str(run.pk): "not there any more"}

    def test_can_be_requested_again_without_harm(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice)
        page = ask(operator_client, [run])
        confirm(operator_client, page, reason="first")
        again = confirm(operator_client, page, reason="second")
        assert told(again) == {str(run.pk): "was already stopping"}
        run.refresh_from_db()
        assert run.stop_reason == "first"


class TestTheForm:
    @pytest.mark.parametrize("ids", ["", "nonsense", f"{uuid.uuid4()},"])
    def test_takes_nothing_but_ids(self, operator_client: Client, alice: User, ids: str) -> None:
        running(alice)
        answer = operator_client.post(f"{LIST}stop/", {"runs": ids, "mode": "graceful"})
        assert answer.status_code == 400
        assert asked_to_stop() == set()

    def test_gives_no_more_rights_than_its_sender_has(
        self, operator_client: Client, alice: User, viewer: User
    ) -> None:
        page = ask(operator_client, [running(alice)])
        form = {"runs": hidden(page, "runs"), "mode": "graceful"}
        stopper = signed_in(staff("stopper", "stop_runrecord"))
        for client, status in ((signed_in(viewer), 403), (stopper, 404)):
            assert client.post(f"{LIST}stop/", form).status_code == status
        assert asked_to_stop() == set()

    def test_stops_the_runs_that_were_shown_and_no_others(
        self, operator_client: Client, alice: User
    ) -> None:
        left, over = make_run(alice), make_run(alice)
        page = ask(operator_client, [left, over], query="?status=queued")
        joined = make_run(alice)
        RunRecord.objects.filter(pk=left.pk).update(
            status=Status.RUNNING, started_at=timezone.now(), worker=make_worker(), attempt=1
        )
        RunRecord.objects.filter(pk=over.pk).update(
            status=Status.SUCCESS, finished_at=timezone.now()
        )
        assert told(confirm(operator_client, page)) == {
            str(left.pk): "accepted",
            str(over.pk): "had finished",
        }
        assert asked_to_stop() == {left.pk}
        assert joined.pk not in asked_to_stop()

    def test_is_shown_again_after_a_mistake_with_the_same_runs(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice)
        page = operator_client.get(f"{LIST}stop-matching/").content.decode()
        later = running(alice)
        again = confirm(operator_client, page, word="some")
        assert "<strong>1 run</strong> will be asked to stop" in again
        confirm(operator_client, again, word="everything")
        assert asked_to_stop() == {run.pk}
        assert later.pk not in asked_to_stop()

    def test_leaves_out_finished_runs_if_there_are_very_many(
        self, operator_client: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.admin.stop_pages._MOST_OVER", 2)
        run = running(alice)
        over = [make_run(alice, status=Status.SUCCESS) for _ in range(3)]
        page = ask(operator_client, [run, *over])
        assert "3 runs are over already" in page
        assert told(confirm(operator_client, page)) == {str(run.pk): "accepted"}

    def test_the_longest_reason_has_500_characters(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice)
        page = ask(operator_client, [run])
        page = confirm(operator_client, page, reason="x" * 501)
        assert "at most 500 characters" in page
        assert asked_to_stop() == set()
        confirm(operator_client, page, reason="x" * 500)
        assert asked_to_stop() == {run.pk}


class TestEverythingThatMatches:
    def test_is_every_active_run_that_the_filter_lists(
        self, operator_client: Client, alice: User
    ) -> None:
        wanted, other = running(alice, agent="wanted"), running(alice, agent="other")
        make_run(alice, agent="wanted", status=Status.SUCCESS)
        link = re.search(
            r'href="([^"]*stop-matching[^"]*)"',
            operator_client.get(LIST, {"agent": "wanted"}).content.decode(),
        )
        assert link
        page = operator_client.get(link[1].replace("&amp;", "&")).content.decode()
        later = running(alice, agent="wanted")
        confirm(operator_client, page)
        assert asked_to_stop() == {wanted.pk}
        assert other.pk not in asked_to_stop()
        assert later.pk not in asked_to_stop(), "it started after the page was shown"

    def test_asks_for_a_word_if_no_filter_is_set(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice)
        page = operator_client.get(f"{LIST}stop-matching/").content.decode()
        again = confirm(operator_client, page)
        assert asked_to_stop() == set()
        again = confirm(operator_client, again, word="some")
        assert asked_to_stop() == set()
        confirm(operator_client, again, word="Everything")
        assert asked_to_stop() == {run.pk}

    @pytest.mark.parametrize("query", ["q=alice", "status=running", "created_at__year=2020"])
    def test_needs_no_word_with_a_filter(
        self, operator_client: Client, alice: User, query: str
    ) -> None:
        running(alice)
        page = operator_client.get(f"{LIST}stop-matching/?{query}").content.decode()
        assert 'name="word"' not in page

    def test_of_an_invalid_filter_leads_to_the_list(self, operator_client: Client) -> None:
        answer = operator_client.get(f"{LIST}stop-matching/?created_at__year=nonsense")
        assert answer.status_code == 302


@pytest.mark.slow
@pytest.mark.thorough
def test_all_of_5000_across_the_pages_are_stopped(operator_client: Client, alice: User) -> None:
    if connection.vendor == "postgresql":  # the test is one transaction, and reads long pages in it
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    insert_many(alice, 5_000)
    first = list(RunRecord.objects.all()[:100])
    began = time.monotonic()
    page = ask(operator_client, first, across=True)
    assert "<strong>5000 runs</strong>" in page
    assert len(re.findall(r"<input", page)) < 20, "ids don't go back as fields of the form"
    page = confirm(operator_client, page, reason="all of it")
    took = time.monotonic() - began
    assert counts(page) == {"accepted": 5_000}
    assert len(asked_to_stop()) == 5_000
    assert LogEntry.objects.count() == 5_000
    assert set(told(page).values()) == {"accepted"}
    assert len(told(page)) == 5_000, "one outcome for each run"
    assert took < 60, "a proxy would have given up"
