"""The list of runs in the admin: what a line says, what can be found, and what it costs."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runs.models import RunInput, RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/runrecord/"
HOSTILE = "<img src=x onerror=alert(1)>"


def listed(client: Client, **query: Any) -> list[str]:
    """Return the ids of the runs listed, in their order."""
    response = client.get(LIST, query)
    assert response.status_code == 200, response.content
    table = response.content.decode().partition('id="result_list"')[2].partition("</table>")[0]
    return re.findall(r'<span data-run="([^"]+)"', table)


def ids(*runs: RunRecord) -> list[str]:
    return [str(run.pk) for run in runs]


def line_of(client: Client, run: RunRecord) -> str:
    page = client.get(LIST).content.decode()
    return next(row for row in page.split("<tr>") if f'data-run="{run.pk}"' in row)


def cell(line: str, name: str) -> str:
    found = re.search(rf'<t[dh] class="field-{name}[^"]*">(.*?)</t[dh]>', line, re.DOTALL)
    return found[1] if found else ""


def running(owner: User, **fields: Any) -> RunRecord:
    return make_run(owner, status=Status.RUNNING, worker=make_worker(), **fields)


class TestALine:
    def test_of_a_stopping_run_says_what_it_waits_for(self, desk: Client, alice: User) -> None:
        now = timezone.now()
        call = {"tool": "call_llm", "label": "llama3", "started_at": now.isoformat()}
        run = running(
            alice, **requested(alice), stop_acknowledged_at=now, in_flight=[{**call, "call": "1"}]
        )
        line = line_of(desk, run)
        assert "Stopping..." in cell(line, "status")
        assert cell(line, "waiting").startswith("after current LLM call completes ")
        assert 'data-label="llama3"' in cell(line, "waiting")
        assert "disabled" in cell(line, "stop")

    def test_of_a_stopped_run_is_grey_and_that_of_an_error_is_not(
        self, desk: Client, alice: User
    ) -> None:
        stopped = line_of(desk, make_run(alice, status=Status.STOPPED))
        assert "tone-muted" in cell(stopped, "status")
        assert "#sign-stopped" in cell(stopped, "status")
        assert "run-stop" not in stopped
        assert "tone-bad" in cell(line_of(desk, make_run(alice, status=Status.ERROR)), "status")

    def test_of_a_running_run_ticks_and_can_be_stopped(self, desk: Client, alice: User) -> None:
        run = running(alice, llm_calls=2, input_tokens=12_000, output_tokens=400)
        line = line_of(desk, run)
        assert f'data-since="{run.started_at.isoformat()}"' in cell(line, "duration")  # type: ignore[union-attr]
        assert cell(line, "tokens") == "12.4k tokens"
        assert cell(line, "owner") == "alice"
        assert cell(line, "worker") == run.worker.name  # type: ignore[union-attr]
        assert f'formaction="{LIST}{run.pk}/stop/"' in cell(line, "stop")

    def test_shows_what_is_hostile_as_text(self, desk: Client) -> None:
        owner = User.objects.create_user(HOSTILE)
        now = timezone.now()
        call = {"tool": "http", "label": HOSTILE, "started_at": now.isoformat()}
        run = running(
            owner, agent=HOSTILE, **requested(owner), stop_acknowledged_at=now, in_flight=[call]
        )
        page = desk.get(LIST).content.decode()
        assert "<img" not in page.partition('id="result_list"')[2]
        assert "&lt;img" in line_of(desk, run)
        lines = desk.get(f"{LIST}refresh/", {"ids": str(run.pk)}).content.decode()
        assert "<img" not in lines
        assert "&lt;img" in lines


class TestWhatItCosts:
    def queries(self, client: Client, **query: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST, query).status_code == 200
        return len(captured)

    @pytest.mark.parametrize("query", [{}, {"status": "active"}, {"q": "alice"}])
    def test_a_hundred_runs_take_as_many_queries_as_one(
        self, desk: Client, alice: User, query: dict[str, str]
    ) -> None:
        worker = make_worker()
        running(alice)
        one = self.queries(desk, **query)
        for number in range(99):
            owner = User.objects.create_user(f"alice-{number}") if number % 10 == 0 else alice
            make_run(owner, status=Status.RUNNING, worker=worker)
        assert self.queries(desk, **query) == one
        assert one <= 12

    def test_redrawn_lines_take_one_query_beside_the_session(
        self, desk: Client, alice: User
    ) -> None:
        runs = [running(alice) for _ in range(30)]
        with CaptureQueriesContext(connection) as captured:
            desk.get(f"{LIST}refresh/", {"ids": ",".join(ids(*runs))})
        assert len(captured) <= 5

    def test_what_is_large_is_not_read(self, desk: Client, alice: User) -> None:
        make_run(alice, status=Status.SUCCESS, result="x" * 1000)
        with CaptureQueriesContext(connection) as captured:
            desk.get(LIST)
        assert not any('"result"' in query["sql"] for query in captured)


class TestFilters:
    def test_by_status_know_stopping(self, desk: Client, alice: User) -> None:
        run, stopping = running(alice), running(alice, **requested(alice))
        queued, over = make_run(alice), make_run(alice, status=Status.SUCCESS)
        assert listed(desk, status="stopping") == ids(stopping)
        assert listed(desk, status="running") == ids(run)
        assert listed(desk, status="success") == ids(over)
        assert set(listed(desk, status="active")) == set(ids(run, stopping, queued))

    def test_by_agent_owner_and_worker(self, desk: Client, alice: User) -> None:
        bob = User.objects.create_user("bob")
        mine, his = running(alice, agent="gone-agent"), running(bob)
        assert listed(desk, agent="gone-agent") == ids(mine)
        assert listed(desk, owner="bob") == ids(his)
        assert listed(desk, worker=str(mine.worker_id)) == ids(mine)

    def test_by_date_and_caller(self, desk: Client, alice: User) -> None:
        now = timezone.now()
        old = make_run(alice, created_at=now - timedelta(days=10))
        root = running(alice)
        child = running(alice, parent=root)
        assert set(listed(desk, **self.date(desk, "Today"))) == set(ids(root, child))
        assert set(listed(desk, **self.date(desk, "Past 7 days"))) == set(ids(root, child))
        assert listed(desk, created_at__lt=str(now - timedelta(days=9))) == ids(old)
        assert listed(desk, created_at__year=old.created_at.year - 1) == []
        assert set(listed(desk, called="no")) == set(ids(old, root))
        assert listed(desk, called="yes") == ids(child)

    def date(self, client: Client, choice: str) -> dict[str, str]:
        """Return the query of a choice of the filter by date."""
        page = client.get(LIST).content.decode()
        found = re.search(rf'<a href="\?([^"]+)">{choice}</a>', page)
        assert found, page
        return dict(parse_qsl(html.unescape(found[1])))

    @pytest.mark.parametrize("name", ["status", "agent", "owner", "worker"])
    @pytest.mark.parametrize("value", ["nonsense", "a\0b", HOSTILE])
    def test_nonsense_lists_nothing(self, desk: Client, alice: User, name: str, value: str) -> None:
        make_run(alice)
        assert listed(desk, **{name: value}) == []

    def test_owners_are_offered_few_at_most(self, desk: Client) -> None:
        for number in range(30):
            make_run(User.objects.create_user(f"owner-{number:02}"))
        page = desk.get(LIST).content.decode()
        assert len(set(re.findall(r'href="\?owner=owner-\d+"', page))) == 8
        assert listed(desk, owner="owner-29")

    def test_the_field_for_an_owner_keeps_the_other_filters(
        self, desk: Client, alice: User
    ) -> None:
        make_run(alice)
        page = desk.get(LIST, {"status": "queued", "q": "alice"}).content.decode()
        form = page.partition('class="field-filter"')[2].partition("</form>")[0]
        assert '<input type="hidden" name="status" value="queued">' in form
        assert '<input type="hidden" name="q" value="alice">' in form


class TestSearch:
    def test_finds_an_id_by_its_beginning(self, desk: Client, alice: User) -> None:
        run, _ = make_run(alice), make_run(alice)
        assert listed(desk, q=str(run.pk)) == ids(run)
        assert listed(desk, q=run.pk.hex[:30]) == ids(run)
        assert str(run.pk) in listed(desk, q=str(run.pk)[:10])

    def test_finds_an_owner(self, desk: Client, alice: User) -> None:
        mine = make_run(alice)
        make_run(User.objects.create_user("bob"))
        assert listed(desk, q="LIC") == ids(mine)

    @pytest.mark.parametrize("text", ["about whales", "Über Wale", 'say "so"'])
    def test_finds_what_a_run_was_asked(self, desk: Client, alice: User, text: str) -> None:
        run, _ = make_run(alice), make_run(alice)
        RunInput.objects.filter(pk=run.pk).update(value={"document": f"A book {text}, long."})
        assert listed(desk, q=text) == ids(run)

    def test_leaves_inputs_that_are_large_or_old_alone(
        self, desk: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.admin.search.NEWEST_INPUTS", 2)
        old, large, small = make_run(alice), make_run(alice), make_run(alice)
        RunInput.objects.update(value="whale")
        RunInput.objects.filter(pk=large.pk).update(size_bytes=10**6)
        assert listed(desk, q="whale") == ids(small)
        assert old.pk

    def test_goes_together_with_filters(self, desk: Client, alice: User) -> None:
        make_run(alice)
        over = make_run(alice, status=Status.SUCCESS)
        assert listed(desk, q="alice", status="success") == ids(over)

    @pytest.mark.parametrize("text", ["a\0b", "%", "_", "'", "\\", " "])
    def test_takes_any_text(self, desk: Client, alice: User, text: str) -> None:
        make_run(alice)
        listed(desk, q=text)


class TestRefresh:
    def test_draws_the_lines_that_there_are(self, desk: Client, alice: User) -> None:
        run = running(alice)
        over = make_run(alice, status=Status.SUCCESS)
        gone = "01994d3c-7b1e-7a52-9c1f-3e1d9a4c8f20"
        answer = desk.get(f"{LIST}refresh/", {"ids": f"{run.pk},nonsense,{gone},{over.pk}"})
        text = answer.content.decode()
        assert set(re.findall(r'<tr data-run="([^"]+)"', text)) == set(ids(run, over))
        assert "no-store" in answer["Cache-Control"]
