"""Stopping from the desk: one run by its button, many by a page that asks and one that tells."""

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
    """Choose the action for these runs, and return the page that asks."""
    form = {"action": "stop_selected", "_selected_action": [str(run.pk) for run in runs]}
    answer = client.post(f"{LIST}{query}", {**form, "select_across": "1" if across else "0"})
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def confirm(client: Client, page: str, **given: str) -> str:
    """Press the button of a page that asks, and return the page that tells."""
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
    def test_stops_and_leads_back_to_the_list_as_it_was(self, desk: Client, alice: User) -> None:
        run = running(alice)
        before = f"http://testserver{LIST}?status=running"
        answer = desk.post(f"{LIST}{run.pk}/stop/", headers={"Referer": before}, follow=True)
        assert answer.redirect_chain == [(before, 302)]
        assert "is asked to stop" in answer.content.decode()
        run.refresh_from_db()
        assert run.stop_via == "admin"
        assert run.stop_requested_by is not None
        assert run.stop_requested_by.username == "operator"

    def test_leads_to_no_other_site(self, desk: Client, alice: User) -> None:
        headers = {"Referer": "https://elsewhere.example/"}
        answer = desk.post(f"{LIST}{running(alice).pk}/stop/", headers=headers)
        assert answer["Location"] == LIST

    def test_answers_a_script_in_its_language(self, desk: Client, alice: User) -> None:
        run, over = running(alice), make_run(alice, status=Status.SUCCESS)
        headers = {"Accept": "application/json"}
        assert desk.post(f"{LIST}{run.pk}/stop/", headers=headers).status_code == 202
        late = desk.post(f"{LIST}{over.pk}/stop/", headers=headers)
        assert late.status_code == 409
        assert late.json()["code"] == "run_already_finished"

    def test_says_so_when_the_run_had_finished_first(self, desk: Client, alice: User) -> None:
        over = make_run(alice, status=Status.SUCCESS)
        page = desk.post(f"{LIST}{over.pk}/stop/", follow=True).content.decode()
        assert "had finished first" in page


class TestThePageThatAsks:
    def test_stops_nothing_by_itself(self, desk: Client, alice: User) -> None:
        ask(desk, [running(alice)])
        assert asked_to_stop() == set()

    def test_counts_what_will_be_stopped_and_what_not(self, desk: Client, alice: User) -> None:
        runs = [running(alice), running(alice), make_run(alice, status=Status.SUCCESS)]
        page = ask(desk, runs)
        assert "<strong>2 runs</strong> will be asked to stop" in page
        assert "1 run is over already" in page

    def test_counts_a_called_run_below_the_one_that_was_selected_as_well(
        self, desk: Client, alice: User
    ) -> None:
        root = running(alice)
        child = running(alice, parent=root)
        grandchild = running(alice, parent=child)
        make_run(alice, status=Status.SUCCESS, parent=root)
        page = ask(desk, [root, grandchild])
        assert "<strong>1 run</strong> will be asked to stop" in page
        assert "and 2 runs that were called below" in page
        assert set(told(confirm(desk, page))) == {str(root.pk)}

    def test_takes_a_called_run_alone_if_its_caller_was_not_selected(
        self, desk: Client, alice: User
    ) -> None:
        root = running(alice)
        child = running(alice, parent=root)
        confirm(desk, ask(desk, [child]))
        assert asked_to_stop() == {child.pk}

    def test_has_nothing_to_ask_if_all_are_over(self, desk: Client, alice: User) -> None:
        page = ask(desk, [make_run(alice, status=Status.ERROR)])
        assert "None of these runs can be stopped" in page
        assert 'name="runs"' not in page

    def test_offers_only_the_modes_that_there_are(self, desk: Client, alice: User) -> None:
        page = ask(desk, [running(alice)])
        assert hidden(page, "mode") == "graceful"
        assert "abort" not in page
        again = confirm(desk, page, mode="abort")
        assert "Nothing was stopped yet" in again
        assert "<strong>1 run</strong> will be asked to stop" in again
        assert asked_to_stop() == set()

    def test_shows_what_is_hostile_as_text(self, desk: Client) -> None:
        owner = User.objects.create_user(HOSTILE)
        page = ask(desk, [running(owner, agent=HOSTILE)])
        assert HOSTILE not in page
        assert HOSTILE not in confirm(desk, page, reason=HOSTILE)


class TestThePageThatTells:
    def test_has_one_outcome_for_each_run(self, desk: Client, alice: User) -> None:
        fresh, late = running(alice), running(alice)
        stopping = running(alice, **requested(alice))
        over = make_run(alice, status=Status.SUCCESS)
        page = ask(desk, [fresh, late, stopping, over])
        RunRecord.objects.filter(pk=late.pk).update(
            status=Status.SUCCESS, finished_at=timezone.now()
        )
        page = confirm(desk, page, reason="wrong document")
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

    def test_says_what_is_not_there_any_more(self, desk: Client, alice: User) -> None:
        run = running(alice)
        page = ask(desk, [run])
        RunRecord.objects.all().delete()
        assert told(confirm(desk, page)) == {str(run.pk): "not there any more"}

    def test_comes_again_without_harm(self, desk: Client, alice: User) -> None:
        run = running(alice)
        page = ask(desk, [run])
        confirm(desk, page, reason="first")
        again = confirm(desk, page, reason="second")
        assert told(again) == {str(run.pk): "was already stopping"}
        run.refresh_from_db()
        assert run.stop_reason == "first"


class TestWhatThePageCarries:
    @pytest.mark.parametrize("ids", ["", "nonsense", f"{uuid.uuid4()},"])
    def test_must_be_ids(self, desk: Client, alice: User, ids: str) -> None:
        running(alice)
        answer = desk.post(f"{LIST}stop/", {"runs": ids, "mode": "graceful"})
        assert answer.status_code == 400
        assert asked_to_stop() == set()

    def test_gives_no_more_rights_than_its_reader_has(
        self, desk: Client, alice: User, viewer: User
    ) -> None:
        page = ask(desk, [running(alice)])
        form = {"runs": hidden(page, "runs"), "mode": "graceful"}
        stopper = signed_in(staff("stopper", "stop_runrecord"))
        for client, status in ((signed_in(viewer), 403), (stopper, 404)):
            assert client.post(f"{LIST}stop/", form).status_code == status
        assert asked_to_stop() == set()

    def test_is_stopped_even_if_it_left_the_filter_meanwhile(
        self, desk: Client, alice: User
    ) -> None:
        """What was shown is stopped, and each of it has an outcome."""
        left, over = make_run(alice), make_run(alice)
        page = ask(desk, [left, over], query="?status=queued")
        joined = make_run(alice)
        RunRecord.objects.filter(pk=left.pk).update(
            status=Status.RUNNING, started_at=timezone.now(), worker=make_worker(), attempt=1
        )
        RunRecord.objects.filter(pk=over.pk).update(
            status=Status.SUCCESS, finished_at=timezone.now()
        )
        assert told(confirm(desk, page)) == {
            str(left.pk): "accepted",
            str(over.pk): "had finished",
        }
        assert asked_to_stop() == {left.pk}
        assert joined.pk not in asked_to_stop()

    def test_stays_what_was_shown_when_the_page_asks_again(self, desk: Client, alice: User) -> None:
        run = running(alice)
        page = desk.get(f"{LIST}stop-matching/").content.decode()
        later = running(alice)
        again = confirm(desk, page, word="some")
        assert "<strong>1 run</strong> will be asked to stop" in again
        confirm(desk, again, word="everything")
        assert asked_to_stop() == {run.pk}
        assert later.pk not in asked_to_stop()

    def test_counts_very_many_finished_runs_without_telling_of_each(
        self, desk: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.admin.selection._MOST_OVER", 2)
        run = running(alice)
        over = [make_run(alice, status=Status.SUCCESS) for _ in range(3)]
        page = ask(desk, [run, *over])
        assert "3 runs are over already" in page
        assert told(confirm(desk, page)) == {str(run.pk): "accepted"}

    def test_the_longest_reason_has_500_characters(self, desk: Client, alice: User) -> None:
        run = running(alice)
        page = ask(desk, [run])
        page = confirm(desk, page, reason="x" * 501)
        assert "at most 500 characters" in page
        assert asked_to_stop() == set()
        confirm(desk, page, reason="x" * 500)
        assert asked_to_stop() == {run.pk}


class TestEverythingThatMatches:
    def test_is_what_the_filter_lists_and_is_not_over(self, desk: Client, alice: User) -> None:
        wanted, other = running(alice, agent="wanted"), running(alice, agent="other")
        make_run(alice, agent="wanted", status=Status.SUCCESS)
        link = re.search(
            r'href="([^"]*stop-matching[^"]*)"',
            desk.get(LIST, {"agent": "wanted"}).content.decode(),
        )
        assert link
        page = desk.get(link[1].replace("&amp;", "&")).content.decode()
        later = running(alice, agent="wanted")
        confirm(desk, page)
        assert asked_to_stop() == {wanted.pk}
        assert other.pk not in asked_to_stop()
        assert later.pk not in asked_to_stop(), "it began after the page was shown"

    def test_takes_a_word_if_no_filter_is_set(self, desk: Client, alice: User) -> None:
        run = running(alice)
        page = desk.get(f"{LIST}stop-matching/").content.decode()
        again = confirm(desk, page)
        assert asked_to_stop() == set()
        again = confirm(desk, again, word="some")
        assert asked_to_stop() == set()
        confirm(desk, again, word="Everything")
        assert asked_to_stop() == {run.pk}

    @pytest.mark.parametrize("query", ["q=alice", "status=running", "created_at__year=2020"])
    def test_needs_no_word_with_a_filter(self, desk: Client, alice: User, query: str) -> None:
        running(alice)
        page = desk.get(f"{LIST}stop-matching/?{query}").content.decode()
        assert 'name="word"' not in page

    def test_of_a_filter_that_makes_no_sense_leads_to_the_list(self, desk: Client) -> None:
        answer = desk.get(f"{LIST}stop-matching/?created_at__year=nonsense")
        assert answer.status_code == 302


@pytest.mark.slow
def test_all_of_5000_across_the_pages_are_stopped(desk: Client, alice: User) -> None:
    insert_many(alice, 5_000)
    first = list(RunRecord.objects.all()[:100])
    began = time.monotonic()
    page = ask(desk, first, across=True)
    assert "<strong>5000 runs</strong>" in page
    assert len(re.findall(r"<input", page)) < 20, "ids don't go back as fields of the form"
    page = confirm(desk, page, reason="all of it")
    took = time.monotonic() - began
    assert counts(page) == {"accepted": 5_000}
    assert len(asked_to_stop()) == 5_000
    assert LogEntry.objects.count() == 5_000
    assert set(told(page).values()) == {"accepted"}
    assert len(told(page)) == 5_000, "one outcome for each run"
    assert took < 60, "a proxy would have given up"
