"""A run's page as the server sends it: who sees it, what it says, its buttons and its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.test import AsyncClient, Client
from django.utils import timezone

from agents import Tools, agent, registry
from runs.models import RunEvent, RunInput, RunRecord, uuid7
from runs.status import Status
from runs.web.pages import run as run_pages
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
PARTS = ("", "state", "result", "input", "receipt", "download/result", "download/input")


@pytest.fixture(autouse=True)
def agents_here(settings: Any) -> Iterator[None]:
    settings.RUNS = {**settings.RUNS, "API_THROTTLE_RATE": None}
    cache.clear()
    with registry.isolated(empty=True):

        @agent("echo", title="Say it again")
        async def echo(tools: Tools, text: str, times: int = 1) -> str:
            return text * times

        yield


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", password="pw")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob", password="pw")


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def client_of(user: User, *permissions: str) -> Client:
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def asked(owner: User, input: Any, **fields: Any) -> RunRecord:
    run = make_run(owner, agent="echo", **fields)
    RunInput.objects.filter(run=run).update(value=input)
    return run


def add_event(run: RunRecord, type: str, /, **data: Any) -> RunEvent:
    seq = run.events.count() + 1
    return RunEvent.objects.create(
        run=run, seq=seq, ts=timezone.now(), type=type, agent=run.agent, depth=0, data=data
    )


def page_of(client: Client, run: RunRecord, part: str = "") -> str:
    response = client.get(f"/app/runs/{run.pk}/{part}")
    assert response.status_code == 200, response
    return response.content.decode()


def data_of(page: str) -> dict[str, Any]:
    """Read what the page hands to its script."""
    (found,) = re.findall(
        r'<script id="run-data" type="application/json">(.*?)</script>', page, re.DOTALL
    )
    data: dict[str, Any] = json.loads(found)
    return data


def element(page: str, id: str) -> str:
    """Return the start tag of an element, and the text in it."""
    found = re.search(rf'<\w+[^>]* id="{id}"[^>]*>.*?</(?:p|button)>', page, re.DOTALL)
    assert found, id
    return " ".join(re.sub(r"(?<!^)<[^>]+>", " ", found[0]).split())


class TestVisibility:
    @pytest.mark.parametrize("part", PARTS)
    def test_somebody_elses_run_is_not_there(self, part: str, alices: Client, bob: User) -> None:
        run = make_run(bob, status=Status.SUCCESS, result="secret")
        assert alices.get(f"/app/runs/{run.pk}/{part}").status_code == 404
        assert client_of(bob).get(f"/app/runs/{run.pk}/{part}").status_code == 200

    @pytest.mark.parametrize("part", [*PARTS, "download/events"])
    def test_whoever_is_not_signed_in_is_led_there(self, part: str, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS, result="secret")
        response = Client().get(f"/app/runs/{run.pk}/{part}")
        assert response.status_code == 302
        assert response["Location"].startswith("/accounts/login/?next=/app/runs/")

    @pytest.mark.parametrize("part", ["stop", "again"])
    def test_the_buttons_of_somebody_elses_run_are_not_there(
        self, part: str, alices: Client, bob: User
    ) -> None:
        run = asked(bob, {"text": "a"})
        response = alices.post(f"/app/runs/{run.pk}/{part}", content_type="application/json")
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"
        assert RunRecord.objects.count() == 1
        assert not RunRecord.objects.get().stop_requested

    def test_a_viewer_sees_no_stop(self, alice: User, bob: User) -> None:
        run = make_run(bob)
        viewer = client_of(alice, "view_runrecord")
        page = page_of(viewer, run)
        assert 'id="stop"' not in page
        assert 'id="reason"' not in page
        assert not data_of(page)["may_stop"]
        response = viewer.post(f"/app/runs/{run.pk}/stop", content_type="application/json")
        assert response.status_code == 403

    def test_nothing_is_kept_by_caches(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS, result="x")
        for part in PARTS:
            assert alices.get(f"/app/runs/{run.pk}/{part}")["Cache-Control"] == "no-store"


class TestFirstPaint:
    """What shows before any script has run."""

    @pytest.mark.parametrize(
        ("status", "fields", "label", "is_stop_enabled"),
        [
            (Status.QUEUED, {}, "○ Queued", True),
            (Status.RUNNING, {}, "◐ Running", True),
            (Status.SUCCESS, {"result": 1}, "✓ Done", False),
            (Status.ERROR, {}, "✗ Error", False),
            (Status.STOPPED, {"stop_mode": "graceful"}, "■ Stopped", False),
        ],
    )
    def test_chip_title_and_button_are_right(
        self,
        status: Status,
        fields: dict[str, Any],
        label: str,
        is_stop_enabled: bool,
        alices: Client,
        alice: User,
    ) -> None:
        page = page_of(alices, make_run(alice, agent="echo", status=status, **fields))
        assert f"<title>{label} · Say it again</title>" in page
        assert f'data-status="{status}"' in page
        assert (" disabled" in element(page, "stop").partition(">")[0]) is not is_stop_enabled
        assert element(page, "stop").endswith("Stop")

    def test_a_stopping_run_says_what_it_waits_for(self, alices: Client, alice: User) -> None:
        call = {"call": "1", "tool": "call_llm", "label": "llama3"}
        run = make_run(
            alice,
            status=Status.RUNNING,
            worker=make_worker(),
            in_flight=[{**call, "started_at": timezone.now().isoformat()}],
            **requested(alice, stop_acknowledged_at=timezone.now()),
        )
        page = page_of(alices, run)
        assert "Stopping... (after current LLM call completes) · llama3" in element(
            page, "stop-line"
        )
        assert element(page, "stop").endswith("Stopping...")
        assert " disabled" in element(page, "stop").partition(">")[0]

    def test_a_silent_worker_is_told_of(self, alices: Client, alice: User) -> None:
        now = timezone.now()
        worker = make_worker(
            heartbeat_at=now - timedelta(seconds=30), lease_until=now + timedelta(seconds=8.5)
        )
        run = make_run(alice, status=Status.RUNNING, worker=worker, **requested(alice))
        assert "The worker does not answer" in element(page_of(alices, run), "stop-line")

    def test_a_stopped_run_says_who_and_why(self, alices: Client, alice: User) -> None:
        stop = requested(
            alice,
            stop_via="page",
            stop_reason="wrong document",
            stop_observed_at=timezone.now(),
        )
        run = make_run(alice, status=Status.STOPPED, partial_result="notes", **stop)
        line = element(page_of(alices, run), "receipt-line")
        assert "Stopped by alice at" in line
        assert "(reason: wrong document)" in line
        assert "Nothing was started after that. What it had so far is kept below." in line

    def test_times_are_those_of_the_reader(self, alices: Client, alice: User) -> None:
        alices.cookies["timezone"] = "Pacific/Kiritimati"  # fourteen hours ahead
        at = timezone.now().replace(hour=1, minute=2, second=3, microsecond=0)
        run = make_run(alice, status=Status.STOPPED, **requested(alice, stop_requested_at=at))
        assert "15:02:03" in element(page_of(alices, run), "receipt-line")

    @pytest.mark.parametrize("zone", ["Nowhere/Land", "../../etc/passwd", "\x00", "x" * 5_000])
    def test_a_zone_that_is_none_does_no_harm(self, zone: str, alices: Client, alice: User) -> None:
        alices.cookies["timezone"] = zone
        page_of(alices, make_run(alice))

    def test_a_child_names_its_caller(self, alices: Client, alice: User) -> None:
        parent = make_run(alice, agent="echo", status=Status.RUNNING)
        child = make_run(alice, status=Status.RUNNING, parent=parent)
        assert f'href="/app/runs/{parent.pk}/">Say it again</a>' in page_of(alices, child)

    def test_the_latest_progress_shows(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING)
        add_event(run, "progress", done=1, total=9, message="")
        add_event(run, "progress", done=5, total=9, message="reading")
        page = page_of(alices, run)
        assert '<progress value="5" max="9"' in page
        assert data_of(page)["progress"]["seq"] == 2

    def test_the_script_gets_no_input_and_no_result(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "BIG"}, status=Status.SUCCESS, result="LARGE")
        run_data = data_of(page_of(alices, run))["run"]
        assert not {"input", "result", "partial_result"} & run_data.keys()

    def test_state_is_what_the_page_began_with(self, alices: Client, alice: User) -> None:
        run = make_run(alice)
        began = data_of(page_of(alices, run))
        state = json.loads(page_of(alices, run, "state"))
        assert state["run"] == began["run"]
        assert state["words"] == began["words"]


class TestStop:
    def test_the_receipt_says_that_it_was_the_page(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        response = alices.post(
            f"/app/runs/{run.pk}/stop", {"reason": "enough"}, content_type="application/json"
        )
        assert response.status_code == 202
        assert response.json()["status"] == "stopping"
        run.refresh_from_db()
        assert (run.stop_via, run.stop_reason) == ("page", "enough")
        assert run.stop_requested_by == alice

    def test_a_run_that_is_over_is_409(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS)
        response = alices.post(f"/app/runs/{run.pk}/stop", content_type="application/json")
        assert response.status_code == 409

    @pytest.mark.parametrize("part", ["stop", "again"])
    def test_without_the_csrf_token_nothing_happens(self, part: str, alice: User) -> None:
        run = asked(alice, {"text": "a"})
        client = Client(enforce_csrf_checks=True)
        client.force_login(alice)
        response = client.post(f"/app/runs/{run.pk}/{part}", content_type="application/json")
        assert response.status_code == 403
        assert response.json()["code"] == "csrf_failed"
        assert not RunRecord.objects.get().stop_requested

    @pytest.mark.parametrize("part", ["stop", "again"])
    def test_signed_out_is_401(self, part: str, alice: User) -> None:
        run = make_run(alice)
        response = Client().post(f"/app/runs/{run.pk}/{part}", content_type="application/json")
        assert response.status_code == 401
        assert response.json()["code"] == "not_authenticated"

    def test_the_api_documents_know_nothing_of_the_page(self, alices: Client) -> None:
        response = alices.get("/api/schema", headers={"accept": "application/json"})
        assert response.status_code == 200
        assert b"/app/" not in response.content


class TestAgain:
    def post(self, client: Client, run: RunRecord, key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        address = f"/app/runs/{run.pk}/again"
        return client.post(address, content_type="application/json", headers=headers)

    def test_the_same_agent_gets_the_same_input(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "a", "times": 2}, status=Status.SUCCESS)
        response = self.post(alices, run)
        assert response.status_code == 201
        again = RunRecord.objects.get(pk=response.json()["id"])
        assert response.json()["address"] == f"/app/runs/{again.pk}/"
        assert again.pk != run.pk
        assert (again.agent, again.owner, again.status) == ("echo", alice, "queued")
        assert again.input_record.value == {"text": "a", "times": 2}

    def test_a_double_click_starts_one_run(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "a"}, status=Status.SUCCESS)
        first, second = self.post(alices, run, "key"), self.post(alices, run, "key")
        assert first.json() == second.json()
        assert RunRecord.objects.count() == 2

    def test_whoever_asks_owns_the_new_run(self, alice: User, bob: User) -> None:
        run = asked(bob, {"text": "a"}, status=Status.SUCCESS)
        response = self.post(client_of(alice, "view_runrecord"), run)
        assert RunRecord.objects.get(pk=response.json()["id"]).owner == alice

    def test_an_agent_that_is_gone_is_named(self, alices: Client, alice: User) -> None:
        run = make_run(alice, agent="gone", status=Status.SUCCESS)
        response = self.post(alices, run)
        assert response.status_code == 400
        assert 'There is no agent "gone"' in response.json()["detail"]
        assert "Edit and run again" not in page_of(alices, run)

    def test_an_input_that_does_not_fit_any_more_is_refused(
        self, alices: Client, alice: User
    ) -> None:
        run = asked(alice, {"words": 3}, status=Status.SUCCESS)
        response = self.post(alices, run)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_input"
        assert "input.text" in response.json()["fields"]

    @pytest.mark.parametrize("key", ["x" * 256, "\u00e9"])
    def test_a_key_that_is_none_is_refused(self, key: str, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "a"}, status=Status.SUCCESS)
        assert self.post(alices, run, key).status_code == 400


class TestResult:
    @pytest.mark.parametrize(
        ("status", "fields", "words"),
        [
            (Status.QUEUED, {}, "No result yet: it is waiting for a worker."),
            (Status.RUNNING, {}, "No result yet: it is still running."),
            (Status.RUNNING, {"stop_requested_at": timezone.now()}, "It is stopping."),
            (Status.SUCCESS, {}, "It is done. It had nothing to return."),
            (Status.STOPPED, {}, "It was stopped, and left no partial result."),
            (Status.STOPPED, {"started_at": None}, "it was stopped before it had begun"),
            (Status.ERROR, {}, "It left no partial result."),
            (Status.ERROR, {"started_at": None}, "There is no result: it had not begun."),
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
        assert "No result yet: 1 of 1 runs of this agent are going on." in page

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
        assert rows["Calls started after the worker heard it"] == "0"
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
