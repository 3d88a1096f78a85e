"""Its parts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.utils import timezone

from agents import Tools, agent
from runs.models import RunEvent, RunRecord, uuid7
from runs.status import Status
from runs.web.pages import run as run_pages
from tests.support.rows import make_run, requested
from tests.support.run_pages import (
    HOSTILE,
    add_event,
    asked,
    page_of,
)

pytestmark = pytest.mark.django_db


class TestResult:
    @pytest.mark.parametrize(
        ("status", "fields", "words"),
        [
            (Status.QUEUED, {}, "No result yet: it is waiting for a worker."),
            (Status.RUNNING, {}, "No result yet: it is still running."),
            (Status.RUNNING, {"stop_requested_at": timezone.now()}, "It is stopping."),
            (Status.SUCCESS, {}, "It is done. It had nothing to return."),
            (Status.STOPPED, {}, "It was stopped, and left no partial result."),
            (Status.STOPPED, {"started_at": None}, "it was stopped before it had started"),
            (Status.ERROR, {}, "It left no partial result."),
            (Status.ERROR, {"started_at": None}, "There is no result: it had not started."),
        ],
    )
    def test_an_empty_panel_says_why(
        self, status: Status, fields: dict[str, Any], words: str, alices: Client, alice: User
    ) -> None:
        run = make_run(alice, status=status, **fields)
        assert words in page_of(alices, run, "result")
        assert words in page_of(alices, run)

    def test_a_run_that_waits_for_a_limit_says_so(self, alices: Client, alice: User) -> None:
        @agent("made", max_concurrent=1)
        async def made(tools: Tools) -> None: ...

        make_run(alice, status=Status.RUNNING)
        page = page_of(alices, make_run(alice))
        assert "No result yet: 1 of 1 runs of this agent are running." in page

    def test_markdown_is_formatted_and_can_be_seen_raw(self, alices: Client, alice: User) -> None:
        panel = page_of(alices, make_run(alice, status=Status.SUCCESS, result="**a**"), "result")
        assert "<strong>a</strong>" in panel
        assert "**a**</pre>" in panel
        assert ">Raw</button>" in panel

    def test_what_a_stopped_run_had_is_called_that(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.STOPPED, partial_result="so far", **requested())
        panel = page_of(alices, run, "result")
        assert "What it had so far" in panel
        assert "so far</p>" in panel

    @pytest.mark.parametrize("value", [False, 0, "", []])
    def test_what_is_false_is_a_result_all_the_same(
        self, value: Any, alices: Client, alice: User
    ) -> None:
        run = make_run(alice, status=Status.SUCCESS, result=value)
        assert 'class="value"' in page_of(alices, run, "result")
        assert alices.get(f"/app/runs/{run.pk}/download/result").status_code == 200

    def test_an_error_shows_what_happened_and_where(self, alices: Client, alice: User) -> None:
        error = {"code": "agent_error", "type": "ValueError", "message": "no such page"}
        run = make_run(alice, status=Status.ERROR, error=error, partial_result="notes")
        add_event(run, "error", **error, traceback="Traceback: line 1")
        panel = page_of(alices, run, "result")
        for words in ("ValueError", "no such page", "agent_error", "line 1", "notes"):
            assert words in panel


class TestInput:
    def test_fields_have_the_names_of_the_form(self, alices: Client, alice: User) -> None:
        panel = page_of(alices, asked(alice, {"text": "hello", "other_one": 3}), "input")
        assert re.findall(r"<dt[^>]*>(.*?)</dt>", panel) == ["Text", "Other one"]
        assert "hello" in panel

    def test_a_file_shows_as_what_it_is(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "data:application/pdf;base64," + "AAAA" * 600_000})
        panel = page_of(alices, run, "input")
        assert "PDF, 1.7\xa0MB" in panel
        assert len(panel) < 5_000
        assert "?file=input.text" in panel

    def test_a_long_text_is_folded(self, alices: Client, alice: User) -> None:
        panel = page_of(alices, asked(alice, {"text": "word " * 1_000}), "input")
        assert "<details" in panel

    def test_no_input_is_said(self, alices: Client, alice: User) -> None:
        assert "It was given no input." in page_of(alices, asked(alice, {}), "input")


class TestReceipt:
    def test_it_says_what_is_not_watched_also_without_a_stop(
        self, alices: Client, alice: User
    ) -> None:
        run = make_run(alice, status=Status.SUCCESS, unwatched_processes=1)
        panel = page_of(alices, run, "receipt")
        assert "No stop was asked for. It started 1 process that is not watched." in panel

    def test_without_a_stop_it_says_so(self, alices: Client, alice: User) -> None:
        assert "No stop was asked for." in page_of(alices, make_run(alice), "receipt")

    def test_it_has_the_sentences_and_the_facts(self, alices: Client, alice: User) -> None:
        now = timezone.now()
        stop = requested(alice, stop_via="page", stop_acknowledged_at=now, stop_observed_at=now)
        run = make_run(alice, status=Status.STOPPED, **stop)
        panel = page_of(alices, run, "receipt")
        assert "Stopped by alice at" in panel
        rows = dict(re.findall(r'<th scope="row">(.*?)</th><td dir="auto">(.*?)</td>', panel))
        assert rows["Asked by"] == "alice"
        assert rows["By way of"] == "page"
        assert rows["Reason"] == "enough"
        assert rows["Mode"] == "graceful"
        assert rows["Calls started after the worker received it"] == "0"
        assert "<time" in rows["It took effect at"]

    def test_a_cascaded_stop_leads_to_where_it_was_asked(self, alices: Client, alice: User) -> None:
        parent = make_run(alice, status=Status.STOPPED, **requested(alice))
        stop = requested(alice, stop_via="parent", stop_root_request=parent.pk)
        child = make_run(alice, status=Status.STOPPED, parent=parent, **stop)
        assert f'href="/app/runs/{parent.pk}/"' in page_of(alices, child, "receipt")


class TestDownloads:
    @pytest.mark.parametrize(
        ("fields", "ending", "media_type", "content"),
        [
            ({"result": "plain"}, "-result.txt", "text/plain", "plain"),
            ({"result": "# A"}, "-result.md", "text/markdown", "# A"),
            ({"result": {"a": "ä"}}, "-result.json", "application/json", '{\n  "a": "ä"\n}'),
            ({"partial_result": "p"}, "-partial-result.txt", "text/plain", "p"),
        ],
    )
    def test_a_result_is_a_file_of_its_kind(
        self,
        fields: dict[str, Any],
        ending: str,
        media_type: str,
        content: str,
        alices: Client,
        alice: User,
    ) -> None:
        run = make_run(alice, agent="echo", status=Status.SUCCESS, **fields)
        response = alices.get(f"/app/runs/{run.pk}/download/result")
        assert response.content.decode() == content
        assert response["Content-Type"].startswith(media_type)
        assert response["X-Content-Type-Options"] == "nosniff"
        name = f"echo-{run.pk.hex[-8:]}{ending}"
        assert response["Content-Disposition"] == f'attachment; filename="{name}"'

    def test_a_name_is_harmless_whatever_the_agent_is_called(
        self, alices: Client, alice: User
    ) -> None:
        run = make_run(alice, agent='../a"\r\nSet-Cookie: x', status=Status.SUCCESS, result="x")
        response = alices.get(f"/app/runs/{run.pk}/download/result")
        assert re.fullmatch(r'attachment; filename="[\w.-]+"', response["Content-Disposition"])
        assert "Set-Cookie" not in response.headers

    def test_what_is_not_there_is_404(self, alices: Client, alice: User) -> None:
        run = make_run(alice)
        for what in ("result", "nonsense", "input?file=input.none"):
            assert alices.get(f"/app/runs/{run.pk}/download/{what}").status_code == 404

    def test_a_file_of_the_input_comes_as_it_was_sent_in(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": ["x", "data:application/pdf;base64,JVBERg=="]})
        response = alices.get(f"/app/runs/{run.pk}/download/input?file=input.text.1")
        assert response.content == b"%PDF"
        assert response["Content-Type"] == "application/pdf"
        assert response["Content-Disposition"].endswith('-text-1.pdf"')

    @pytest.mark.parametrize("kind", ["text/html", "image/svg+xml"])
    def test_a_page_in_the_input_never_comes_as_a_page(
        self, kind: str, alices: Client, alice: User
    ) -> None:
        run = asked(alice, {"text": f"data:{kind},<script>alert(1)</script>"})
        response = alices.get(f"/app/runs/{run.pk}/download/input?file=input.text")
        assert response["Content-Type"] == "application/octet-stream"
        assert response["Content-Disposition"].startswith("attachment")
        assert response["X-Content-Type-Options"] == "nosniff"

    def test_base64_that_is_none_is_404(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "data:application/pdf;base64,!!!"})
        response = alices.get(f"/app/runs/{run.pk}/download/input?file=input.text")
        assert response.status_code == 404

    @pytest.mark.django_db(transaction=True)
    async def test_events_come_line_by_line(self) -> None:
        alice = await User.objects.acreate(username="alice")
        client = AsyncClient()
        await client.aforce_login(alice)
        run = await RunRecord.objects.acreate(
            id=(id := uuid7()), root_id=id, owner=alice, agent="echo"
        )
        await RunEvent.objects.abulk_create(
            RunEvent(
                run=run, seq=seq, ts=timezone.now(), type="log", agent="echo", depth=0,
                data={"message": f"line {seq}\n"},
            )
            for seq in range(1, 1_203)
        )  # fmt: skip
        response: Any = await client.get(f"/app/runs/{run.pk}/download/events")
        assert response.streaming
        text = b"".join([piece async for piece in response.streaming_content]).decode()
        assert [json.loads(line)["seq"] for line in text.splitlines()] == list(range(1, 1_203))
        assert response["Content-Disposition"].endswith('-events.jsonl"')


class TestHostileText:
    def test_it_is_text_on_every_piece_of_the_page(self, alices: Client, alice: User) -> None:
        stop = requested(
            alice,
            stop_reason=HOSTILE,
            stop_cleanup_error={"type": HOSTILE, "message": HOSTILE},
        )
        run = asked(
            alice,
            {HOSTILE: HOSTILE, "list": [HOSTILE], "long": HOSTILE * 50, "object": {HOSTILE: 1},
             "file": f"data:text/html;name={HOSTILE.replace(';', '')},x"},
            status=Status.STOPPED,
            partial_result=HOSTILE,
            error={"code": HOSTILE, "type": HOSTILE, "message": HOSTILE},
            **stop,
        )  # fmt: skip
        RunRecord.objects.filter(pk=run.pk).update(agent=HOSTILE)
        add_event(run, "progress", done=1, total=2, message=HOSTILE)
        add_event(run, "error", traceback=HOSTILE)
        for part in ("", "result", "input", "receipt"):
            page = page_of(alices, run, part)
            assert "alert(1)" in page
            assert "<script>" not in page
            assert "<img" not in page
            assert "onerror=alert(2)>" not in page

    def test_the_policy_stands(self, alices: Client, alice: User) -> None:
        page = page_of(alices, make_run(alice, status=Status.SUCCESS, result="# a"))
        assert " style=" not in page
        assert not re.search(r"<script(?![^>]*(?:src=|application/json))", page)
        assert not re.search(r" on\w+=", page)


def test_a_run_that_ends_while_its_page_is_made_is_drawn_as_over(
    alices: Client, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = asked(alice, {}, status=Status.RUNNING)
    read = run_pages.read_snapshots

    def end_then_read(ids: list[Any]) -> Any:
        RunRecord.objects.filter(pk=run.pk).update(
            status=Status.SUCCESS, result="all of it", finished_at=timezone.now()
        )
        return read(ids)

    monkeypatch.setattr(run_pages, "read_snapshots", end_then_read)
    page = alices.get(f"/app/runs/{run.pk}/").content.decode()
    assert 'data-status="success"' in page
    assert "all of it" in page
    assert "still running" not in page
