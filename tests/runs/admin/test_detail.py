"""The page of one run in the admin, where nothing can be edited."""

from __future__ import annotations

import html
import json
import re
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runs.admin import run_detail
from runs.models import RunEvent, RunInput, RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested

from .conftest import signed_in, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/runrecord/"
HOSTILE = "<img src=x onerror=alert(1)>"


def running(owner: User, **fields: Any) -> RunRecord:
    return make_run(owner, status=Status.RUNNING, worker=make_worker(), **fields)


def address(run: RunRecord, what: str = "change") -> str:
    return f"{LIST}{run.pk}/{what}/"


def page_of(client: Client, run: RunRecord) -> str:
    response = client.get(address(run))
    assert response.status_code == 200
    return response.content.decode()


def part(page: str, name: str) -> str:
    """Return the text of one of the page's parts."""
    found = page.partition(f'id="panel-{name}">')[2].partition("</section>")[0]
    assert found, name
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", found)).split())


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="run-data" type="application/json">(.*?)</script>', page)
    assert found
    return dict(json.loads(found[1]))


class TestWhatItShows:
    def test_of_a_running_run(self, operator_client: Client, alice: User) -> None:
        run = running(
            alice, llm_calls=2, input_tokens=12_000, output_tokens=400, max_attempts=3, priority=-4
        )
        RunInput.objects.filter(run=run).update(value={"document": "A page."}, size_bytes=24)
        page = page_of(operator_client, run)
        assert 'data-status="running"' in page
        assert "2 LLM calls · 12.4k tokens" in page
        assert part(page, "result") == "Result No result yet: it is still running."
        assert part(page, "receipt") == "Receipt No stop was asked for."
        assert "Document A page." in part(page, "input")
        facts = part(page, "facts")
        assert f"Id {run.pk} " in facts
        assert "Owner alice" in facts
        assert "Priority -4" in facts
        assert "Attempt 1 of at most 3" in facts
        assert f"Worker {run.worker.name}" in facts  # type: ignore[union-attr]

    def test_of_a_stopped_run_in_grey_with_its_receipt_and_what_was_kept(
        self, operator_client: Client, alice: User
    ) -> None:
        now = timezone.now()
        run = make_run(
            alice,
            status=Status.STOPPED,
            partial_result="half of it",
            **requested(alice, stop_acknowledged_at=now, stop_observed_at=now, stop_via="admin"),
        )
        page = page_of(operator_client, run)
        assert "tone-muted" in page.partition('id="run-chip"')[2][:100]
        assert "What it had so far" in part(page, "result")
        assert "half of it" in part(page, "result")
        receipt = part(page, "receipt")
        assert "Stopped by alice in the admin at" in receipt
        assert "Calls started after the worker received it 0" in receipt
        assert 'id="stop"' not in page

    def test_of_a_failed_run_with_its_traceback(self, operator_client: Client, alice: User) -> None:
        run = make_run(alice, status=Status.ERROR)
        RunEvent.objects.create(
            run=run, seq=1, ts=timezone.now(), type="error", agent="made", depth=0,
            source="system", data={"traceback": "Traceback: line 1"},
        )  # fmt: skip
        result = part(page_of(operator_client, run), "result")
        assert result.startswith("Result X : x Code x Traceback Traceback: line 1")

    def test_of_a_stopping_run_with_what_it_waits_for(
        self, operator_client: Client, alice: User
    ) -> None:
        now = timezone.now()
        call = {"call": "1", "tool": "call_llm", "label": "llama3", "started_at": now.isoformat()}
        page = page_of(
            operator_client,
            running(alice, in_flight=[call], **requested(alice, stop_acknowledged_at=now)),
        )
        line = page.partition('id="stop-line"')[2].partition("</p>")[0]
        assert "Stopping... (after current LLM call completes)" in line
        assert "llama3" in line
        assert re.search(r'id="stop" disabled', page)

    def test_large_values_are_cut_and_can_be_downloaded(
        self, operator_client: Client, alice: User
    ) -> None:
        run = make_run(alice, status=Status.SUCCESS, result="word " * 100_000)
        RunInput.objects.filter(run=run).update(value={"document": "text " * 100_000})
        page = page_of(operator_client, run)
        assert len(page) < 600_000
        for what in ("result", "input"):
            download = f"/app/runs/{run.pk}/download/{what}"
            assert f'href="{download}"' in page
            assert operator_client.get(download).status_code == 200

    def test_hostile_values_as_text(self, operator_client: Client, alice: User) -> None:
        run = make_run(
            alice,
            agent=HOSTILE,
            status=Status.ERROR,
            partial_result={HOSTILE: [HOSTILE]},
            error={"code": HOSTILE, "type": HOSTILE, "message": HOSTILE},
            **requested(alice, stop_reason=HOSTILE, stop_finished_first=True),
        )
        RunInput.objects.filter(run=run).update(value={HOSTILE: HOSTILE})
        page = page_of(operator_client, run)
        assert "<img" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        for name in ("tree", "facts", "receipt"):
            assert "<img" not in operator_client.get(address(run, f"part/{name}")).content.decode()

    def test_nothing_that_the_content_security_policy_would_block(
        self, operator_client: Client, alice: User
    ) -> None:
        page = page_of(operator_client, running(alice))
        assert " style=" not in page
        assert "<style" not in page
        inline = [tag for tag in re.findall("<script[^>]*>", page) if "src=" not in tag]
        assert inline == ['<script id="run-data" type="application/json">']


class TestTheTree:
    def test_is_whole_from_any_of_its_runs_with_links_to_the_others(
        self, operator_client: Client, alice: User
    ) -> None:
        root = running(alice, agent="root")
        first = make_run(alice, agent="first", status=Status.STOPPED, parent=root)
        below = make_run(alice, agent="below", status=Status.SUCCESS, parent=first)
        make_run(alice, agent="second", status=Status.RUNNING, worker=root.worker, parent=root)
        page = page_of(operator_client, below)
        tree = part(page, "tree")
        words = [
            *("Running root", "Stopped first", "Done below this run", "Running second")
        ]  # fmt: skip
        places = [tree.find(words) for words in words]
        assert -1 not in places
        assert places == sorted(places)
        assert f'href="{address(first)}"' in page
        assert f'<a href="{address(first)}" dir="auto">first</a></p>' in page  # called by

    def test_of_very_many_says_what_is_left_out(
        self, operator_client: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_detail, "MOST_BRANCHES", 3)
        root = running(alice)
        for _ in range(5):
            make_run(alice, status=Status.SUCCESS, parent=root)
        assert "3 more runs are not listed here." in part(page_of(operator_client, root), "tree")

    def test_costs_as_many_queries_as_a_run_alone(
        self, operator_client: Client, alice: User
    ) -> None:
        def count(run: RunRecord) -> int:
            with CaptureQueriesContext(connection) as queries:
                page_of(operator_client, run)
            return len(queries)

        root = running(alice)
        alone = count(root)
        for _ in range(20):
            child = make_run(alice, status=Status.SUCCESS, parent=root)
            make_run(alice, status=Status.SUCCESS, parent=child)
        assert count(root) == alone + 2  # what the whole tree has used: for the head, the facts


class TestItsParts:
    def test_are_drawn_as_on_the_page(self, operator_client: Client, alice: User) -> None:
        child = make_run(alice, status=Status.STOPPED, parent=running(alice), **requested(alice))
        RunRecord.objects.filter(pk=child.pk).update(stop_root_request=child.root_id)
        page = page_of(operator_client, child)
        assert "made" in operator_client.get(address(child, "part/tree")).content.decode()
        for name in ("facts", "receipt"):
            drawn = operator_client.get(address(child, f"part/{name}"))
            text = " ".join(re.sub("<[^>]+>", " ", drawn.content.decode()).split())
            assert html.unescape(text)[:60] == part(page, name)[:60], name
        receipt = operator_client.get(address(child, "part/receipt")).content.decode()
        assert f'href="{LIST}{child.root_id}/change/"' in receipt

    def test_with_an_unknown_name_are_not_found(self, operator_client: Client, alice: User) -> None:
        assert operator_client.get(address(make_run(alice), "part/secrets")).status_code == 404


class TestWhoMayDoWhat:
    def test_stop_needs_the_permission_to_stop(
        self, operator_client: Client, viewer: User, alice: User
    ) -> None:
        run = running(alice)
        page = page_of(operator_client, run)
        assert f'action="{address(run, "stop")}"' in page
        assert data_of(page)["may_stop"] is True
        page = page_of(signed_in(viewer), run)
        assert 'id="stop"' not in page
        assert 'id="stop-form"' not in page
        assert data_of(page)["may_stop"] is False
        assert "Run again" in page

    @pytest.mark.parametrize("is_script", [True, False])
    def test_a_stop_keeps_its_reason(
        self, operator_client: Client, alice: User, is_script: bool
    ) -> None:
        run = running(alice)
        if is_script:
            answer = operator_client.post(
                address(run, "stop"),
                {"reason": "wrong document"},
                content_type="application/json",
                headers={"Accept": "application/json"},
            )
            assert answer.status_code == 202
        else:
            came_from = f"http://testserver{address(run)}"
            answer = operator_client.post(
                address(run, "stop"), {"reason": "wrong document"}, headers={"Referer": came_from}
            )
            assert answer["Location"] == came_from
        run.refresh_from_db()
        assert (run.stop_reason, run.stop_via) == ("wrong document", "admin")

    @pytest.mark.parametrize(
        "body", ['{"reason": 5}', '{"reason": null}', "[]", "{", json.dumps({"reason": "x" * 501})]
    )
    def test_an_invalid_reason_stops_nothing(
        self, operator_client: Client, alice: User, body: str
    ) -> None:
        run = running(alice)
        answer = operator_client.post(address(run, "stop"), body, content_type="application/json")
        assert answer.status_code == 400
        run.refresh_from_db()
        assert not run.stop_requested

    def test_run_again_starts_a_run_of_the_operator(
        self, operator_client: Client, operator: User, alice: User
    ) -> None:
        run = make_run(alice, status=Status.SUCCESS, agent="count_words")
        RunInput.objects.filter(run=run).update(value={"text": "one two"})
        again = data_of(page_of(operator_client, run))["addresses"]["again"]
        answer = operator_client.post(again, {}, content_type="application/json")
        assert answer.status_code == 201
        new = RunRecord.objects.get(pk=answer.json()["id"])
        assert (new.owner, new.agent, new.input_record.value) == (
            operator,
            "count_words",
            {"text": "one two"},
        )

    def test_delete_is_offered_for_finished_runs_only(
        self, operator_client: Client, alice: User
    ) -> None:
        over, alive = make_run(alice, status=Status.SUCCESS), running(alice)
        cleaner = signed_in(staff("cleaner", "view_runrecord", "delete_runrecord"))
        assert address(over, "delete") in page_of(cleaner, over)
        assert address(alive, "delete") not in page_of(cleaner, alive)
        assert address(over, "delete") not in page_of(operator_client, over)

    def test_nothing_can_be_changed_by_a_request(self, admin_client: Client, alice: User) -> None:
        run = running(alice)
        for method in (admin_client.post, admin_client.put, admin_client.delete):
            assert method(address(run), {"agent": "other", "_save": "1"}).status_code == 403
        run.refresh_from_db()
        assert (run.agent, run.status) == ("made", "running")

    def test_without_the_permission_to_view_page_and_parts_are_refused(self, alice: User) -> None:
        run = running(alice)
        client = signed_in(staff("stopper", "stop_runrecord"))
        assert client.get(address(run)).status_code == 403
        assert client.get(address(run, "part/tree")).status_code == 403

    def test_a_missing_run_is_not_found(self, operator_client: Client) -> None:
        assert operator_client.get(f"{LIST}{uuid.uuid4()}/change/").status_code == 404
        assert operator_client.get(f"{LIST}nonsense/change/").status_code == 404
        assert operator_client.get(f"{LIST}{uuid.uuid4()}/part/tree/").status_code == 404
