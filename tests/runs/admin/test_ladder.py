"""The rungs of a stop in the admin: on a line, for many at once, and on a run's page."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from runs.models import RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested

from .conftest import signed_in

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/runrecord/"
JSON = {"Accept": "application/json"}


def stopping(owner: User, tool: str, *, since: float = 30, **fields: Any) -> RunRecord:
    """Insert a run that was asked to stop ``since`` seconds ago, with a call in flight."""
    at = timezone.now() - timedelta(seconds=since)
    call = {"call": "1", "tool": tool, "label": "it (a.py:3)", "started_at": at.isoformat()}
    stop = requested(owner, stop_requested_at=at, stop_acknowledged_at=at)
    values = {"in_flight": [call], **stop, **fields}
    return make_run(owner, status=Status.RUNNING, worker=make_worker(), **values)


def button_of(client: Client, run: RunRecord) -> tuple[str, str]:
    """Return the start tag and the words of the button on a run's line."""
    page = client.get(LIST).content.decode()
    found = re.search(rf'(<button[^>]*/{run.pk}/stop/"[^>]*>)(.*?)</button>', page, re.DOTALL)
    assert found, page
    return html.unescape(found[1]), " ".join(re.sub("<[^>]+>", " ", found[2]).split())


class TestTheButtonOfALine:
    def test_is_stop_of_a_run_that_nobody_has_stopped(
        self, operator_client: Client, alice: User
    ) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        tag, words = button_of(operator_client, run)
        assert words == "Stop made"
        assert 'name="mode" value="graceful"' in tag
        assert " disabled" not in tag

    @pytest.mark.parametrize(
        ("tool", "fields", "mode", "words"),
        [
            ("call_llm", {}, "abort", "Stop now made"),
            ("call_llm", {"stop_mode": "abort"}, "abandon", "Give up on it made"),
            ("thread", {}, "abandon", "Give up on it made"),
        ],
    )
    def test_offers_the_next_rung_after_a_while(
        self,
        tool: str,
        fields: dict[str, Any],
        mode: str,
        words: str,
        operator_client: Client,
        alice: User,
    ) -> None:
        tag, shown = button_of(operator_client, stopping(alice, tool, **fields))
        assert shown == words
        assert f'name="mode" value="{mode}" title="' in tag
        assert "paid for" in tag.partition(" data-offer=")[0]
        assert not tag.endswith(" disabled>")

    def test_waits_with_the_offer_and_gives_it_to_the_script(
        self, operator_client: Client, alice: User
    ) -> None:
        tag, words = button_of(operator_client, stopping(alice, "call_llm", since=1))
        assert words == "Stopping... made"
        assert tag.endswith(" disabled>")
        assert '"mode": "abort"' in tag

    def test_offers_nothing_to_those_who_may_not_stop(self, viewer: User, alice: User) -> None:
        run = stopping(alice, "call_llm")
        assert f"/{run.pk}/stop/" not in signed_in(viewer).get(LIST).content.decode()

    def test_makes_the_stop_harder_and_the_history_names_the_rung(
        self, operator_client: Client, operator: User, alice: User
    ) -> None:
        run = stopping(alice, "call_llm")
        answer = operator_client.post(f"{LIST}{run.pk}/stop/", {"mode": "abort"}, follow=True)
        assert "are cut" in answer.content.decode()
        run.refresh_from_db()
        assert (run.status, run.stop_mode, run.stop_escalated_by) == ("running", "abort", operator)
        assert run.stop_requested_by == alice
        assert "Mode: abort." in LogEntry.objects.get().change_message

    def test_asks_without_a_script_before_it_gives_up(
        self, operator_client: Client, alice: User
    ) -> None:
        run, other = stopping(alice, "thread"), stopping(alice, "thread")
        answer = operator_client.post(f"{LIST}{run.pk}/stop/", {"mode": "abandon"})
        page = answer.content.decode()
        assert "<strong>1 run</strong> will be asked to stop" in page
        assert re.search(r'<input type="radio" name="mode" value="abandon"[^>]* checked', page)
        run.refresh_from_db()
        assert run.stop_mode == "graceful"

        form = {"runs": str(run.pk), "mode": "abandon"}
        page = operator_client.post(f"{LIST}stop/", form).content.decode()
        assert "Code of theirs may still be running" in page
        run.refresh_from_db()
        other.refresh_from_db()
        assert (run.status, run.stop_abandoned) == ("stopped", True)
        assert other.stop_mode == "graceful"
        assert "Mode: abandon." in LogEntry.objects.get().change_message

    def test_gives_up_at_once_for_a_script_that_has_asked(
        self, operator_client: Client, alice: User
    ) -> None:
        run = stopping(alice, "thread")
        answer = operator_client.post(
            f"{LIST}{run.pk}/stop/", {"mode": "abandon"}, "application/json", headers=JSON
        )
        assert answer.status_code == 202
        run.refresh_from_db()
        assert run.stop_abandoned

    @pytest.mark.parametrize("mode", ["kill", "", 3, None, ["abort"]])
    def test_takes_no_other_mode(self, mode: object, operator_client: Client, alice: User) -> None:
        run = stopping(alice, "thread")
        answer = operator_client.post(
            f"{LIST}{run.pk}/stop/", {"mode": mode}, "application/json", headers=JSON
        )
        assert answer.status_code == 400
        run.refresh_from_db()
        assert run.stop_mode == "graceful"


class TestManyAtOnce:
    def test_take_a_mode_and_a_plan_and_have_an_outcome_each(
        self, operator_client: Client, alice: User
    ) -> None:
        fresh = make_run(alice, status=Status.RUNNING, worker=make_worker())
        gentle, hard = stopping(alice, "http"), stopping(alice, "http", stop_mode="abort")
        over = make_run(alice, status=Status.SUCCESS)
        runs = ",".join(str(run.pk) for run in (fresh, gentle, hard, over))
        form = {"runs": runs, "mode": "abort", "abandon_after": "60"}
        page = operator_client.post(f"{LIST}stop/", form).content.decode()
        told = re.findall(r'<tr data-run="[^"]+"><td>([^<]+)</td>', page)
        # The plan is new for the one that was stopped as hard before.
        assert told == ["accepted", "accepted", "accepted", "had finished"]
        for run in (fresh, gentle, hard):
            run.refresh_from_db()
            assert run.stop_mode == "abort"
            assert run.stop_abort_at is None
            assert run.stop_abandon_at is not None
        entry = LogEntry.objects.get(object_id=str(fresh.pk))
        assert "Mode: abort. Planned: abandon after 60 s." in entry.change_message

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"abort_after": "20", "abandon_after": "10"}, "Not before the calls in flight"),
            ({"abort_after": "-1"}, "greater than or equal to 0"),
            ({"abandon_after": "soon"}, "Enter a number"),
            ({"abandon_after": "nan"}, "Enter a number"),
            ({"abandon_after": "1e12"}, "less than or equal to"),
        ],
    )
    def test_are_stopped_by_no_plan_that_is_none(
        self, given: dict[str, str], words: str, operator_client: Client, alice: User
    ) -> None:
        run = make_run(alice)
        form = {"runs": str(run.pk), "mode": "graceful", **given}
        page = operator_client.post(f"{LIST}stop/", form).content.decode()
        assert "Nothing was stopped yet" in page
        assert words in page
        run.refresh_from_db()
        assert not run.stop_requested


class TestTheDetail:
    def test_of_a_stopping_run_offers_the_next_rung_also_without_a_script(
        self, operator_client: Client, alice: User
    ) -> None:
        later = timezone.now() + timedelta(seconds=90)
        run = stopping(alice, "call_llm", stop_abandon_at=later)
        page = operator_client.get(f"{LIST}{run.pk}/change/").content.decode()
        button = re.search(r'<button type="submit" [^>]*id="harder"[^>]*>', page)
        assert button
        assert 'form="stop-form" name="mode" value="abort"' in button[0]
        assert "(cuts the call in flight)" in page
        assert re.search(r'<div class="offer" id="offer">', page), "it is not hidden"
        assert re.search(r'data-text="Gives up by itself in %\(left\)s.">Gives up by', page)
        assert "Planned to give up at" in page

    def test_of_a_run_that_was_given_up_has_the_whole_receipt(
        self, operator_client: Client, operator: User, alice: User
    ) -> None:
        at = timezone.now()
        left = {"kind": "thread", "label": "slow (a.py:3)", "since": at.isoformat()}
        run = stopping(
            alice,
            "thread",
            stop_mode="abandon",
            stop_escalated_at=at,
            stop_escalated_by=operator,
            stop_calls_cut=2,
            unwatched_threads=1,
        )
        RunRecord.objects.filter(pk=run.pk).update(
            status=Status.STOPPED,
            finished_at=at,
            stop_abandoned=True,
            stop_left_behind=[
                {**left, "ended_at": None},
                {**left, "kind": "process", "label": "sh", "ended_at": at.isoformat()},
            ],
        )
        page = operator_client.get(f"{LIST}{run.pk}/change/").content.decode()
        assert re.search(r"Given up at \S+ by operator: 1 thread may still run: slow \(a", page)
        found = re.findall(r'<th scope="row">(.*?)</th><td dir="auto">(.*?)</td>', page)
        rows = dict(found)
        assert rows["Mode"] == "abandon"
        assert rows["Made harder by"] == "operator"
        assert rows["Calls cut"] == "2"
        assert rows["Given up"] == "yes"
        assert ("Left behind", "thread slow (a.py:3)") in found
        assert ("It ended at", "may still be running") in found
        assert ("Left behind", "process sh") in found
        assert rows["Not watched"] == "It started 1 thread that is not watched."
