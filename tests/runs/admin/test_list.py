"""The list of runs in the admin: its lines, filters, search and queries."""

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
    def test_of_a_stopping_run_says_what_it_waits_for(
        self, operator_client: Client, alice: User
    ) -> None:
        now = timezone.now()
        call = {"tool": "call_llm", "label": "llama3", "started_at": now.isoformat()}
        run = running(
            alice, **requested(alice), stop_acknowledged_at=now, in_flight=[{**call, "call": "1"}]
        )
        line = line_of(operator_client, run)
        assert "Stopping..." in cell(line, "status")
        assert cell(line, "waiting").startswith("after current LLM call completes ")
        assert 'data-label="llama3"' in cell(line, "waiting")
        assert "disabled" in cell(line, "stop")

    def test_of_a_stopped_run_is_grey_and_that_of_an_error_is_not(
        self, operator_client: Client, alice: User
    ) -> None:
        stopped = line_of(operator_client, make_run(alice, status=Status.STOPPED))
        assert "tone-muted" in cell(stopped, "status")
        assert "#sign-stopped" in cell(stopped, "status")
        assert "run-stop" not in stopped
        assert "tone-bad" in cell(
            line_of(operator_client, make_run(alice, status=Status.ERROR)), "status"
        )

    def test_of_a_running_run_ticks_and_can_be_stopped(
        self, operator_client: Client, alice: User
    ) -> None:
        run = running(alice, llm_calls=2, input_tokens=12_000, output_tokens=400)
        line = line_of(operator_client, run)
        assert f'data-since="{run.started_at.isoformat()}"' in cell(line, "duration")  # type: ignore[union-attr]
        assert cell(line, "tokens") == "12.4k tokens"
        assert cell(line, "owner") == "alice"
        assert cell(line, "worker") == run.worker.name  # type: ignore[union-attr]
        assert f'formaction="{LIST}{run.pk}/stop/"' in cell(line, "stop")

    def test_shows_hostile_names_as_text(self, operator_client: Client) -> None:
        owner = User.objects.create_user(HOSTILE)
        now = timezone.now()
        call = {"tool": "http", "label": HOSTILE, "started_at": now.isoformat()}
        run = running(
            owner, agent=HOSTILE, **requested(owner), stop_acknowledged_at=now, in_flight=[call]
        )
        page = operator_client.get(LIST).content.decode()
        assert "<img" not in page.partition('id="result_list"')[2]
        assert "&lt;img" in line_of(operator_client, run)
        lines = operator_client.get(f"{LIST}refresh/", {"ids": str(run.pk)}).content.decode()
        assert "<img" not in lines
        assert "&lt;img" in lines


class TestWhatItCosts:
    def queries(self, client: Client, **query: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST, query).status_code == 200
        return len(captured)

    @pytest.mark.parametrize("query", [{}, {"status": "active"}, {"q": "alice"}])
    def test_a_hundred_runs_take_as_many_queries_as_one(
        self, operator_client: Client, alice: User, query: dict[str, str]
    ) -> None:
        worker = make_worker()
        running(alice)
        one = self.queries(operator_client, **query)
        for number in range(99):
            owner = User.objects.create_user(f"alice-{number}") if number % 10 == 0 else alice
            make_run(owner, status=Status.RUNNING, worker=worker)
        assert self.queries(operator_client, **query) == one
        assert one <= 12

    def test_a_refresh_of_lines_takes_one_query_more_than_the_session(
        self, operator_client: Client, alice: User
    ) -> None:
        runs = [running(alice) for _ in range(30)]
        with CaptureQueriesContext(connection) as captured:
            operator_client.get(f"{LIST}refresh/", {"ids": ",".join(ids(*runs))})
        assert len(captured) <= 5

    def test_large_fields_are_not_read(self, operator_client: Client, alice: User) -> None:
        make_run(alice, status=Status.SUCCESS, result="x" * 1000)
        with CaptureQueriesContext(connection) as captured:
            operator_client.get(LIST)
        assert not any('"result"' in query["sql"] for query in captured)


class TestFilters:
    def test_by_status_include_stopping(self, operator_client: Client, alice: User) -> None:
        run, stopping = running(alice), running(alice, **requested(alice))
        queued, over = make_run(alice), make_run(alice, status=Status.SUCCESS)
        assert listed(operator_client, status="stopping") == ids(stopping)
        assert listed(operator_client, status="running") == ids(run)
        assert listed(operator_client, status="success") == ids(over)
        assert set(listed(operator_client, status="active")) == set(ids(run, stopping, queued))

    def test_by_agent_owner_and_worker(self, operator_client: Client, alice: User) -> None:
        bob = User.objects.create_user("bob")
        mine, his = running(alice, agent="gone-agent"), running(bob)
        assert listed(operator_client, agent="gone-agent") == ids(mine)
        assert listed(operator_client, owner="bob") == ids(his)
        assert listed(operator_client, worker=str(mine.worker_id)) == ids(mine)

    def test_by_date_and_caller(self, operator_client: Client, alice: User) -> None:
        now = timezone.now()
        old = make_run(alice, created_at=now - timedelta(days=10))
        root = running(alice)
        child = running(alice, parent=root)
        assert set(listed(operator_client, **self.date(operator_client, "Today"))) == set(
            ids(root, child)
        )
        assert set(listed(operator_client, **self.date(operator_client, "Past 7 days"))) == set(
            ids(root, child)
        )
        assert listed(operator_client, created_at__lt=str(now - timedelta(days=9))) == ids(old)
        assert listed(operator_client, created_at__year=old.created_at.year - 1) == []
        assert set(listed(operator_client, called="no")) == set(ids(old, root))
        assert listed(operator_client, called="yes") == ids(child)

    def test_by_date_offers_the_past_30_days(self, operator_client: Client, alice: User) -> None:
        now = timezone.now()
        make_run(alice, created_at=now - timedelta(days=32))
        old = make_run(alice, created_at=now - timedelta(days=29))
        chosen = self.date(operator_client, "Past 30 days")
        assert listed(operator_client, **chosen) == ids(old)
        page = operator_client.get(LIST, chosen).content.decode()
        assert re.search(r'<li class="selected">\s*<a href="[^"]+">Past 30 days<', page)

    def date(self, client: Client, choice: str) -> dict[str, str]:
        """Return the query of a choice of the filter by date."""
        page = client.get(LIST).content.decode()
        found = re.search(rf'<a href="\?([^"]+)">{choice}</a>', page)
        assert found, page
        return dict(parse_qsl(html.unescape(found[1])))

    @pytest.mark.parametrize("name", ["status", "agent", "owner", "worker"])
    @pytest.mark.parametrize("value", ["nonsense", "a\0b", HOSTILE])
    def test_nonsense_lists_nothing(
        self, operator_client: Client, alice: User, name: str, value: str
    ) -> None:
        make_run(alice)
        assert listed(operator_client, **{name: value}) == []

    def test_only_a_few_owners_are_offered(self, operator_client: Client) -> None:
        for number in range(30):
            make_run(User.objects.create_user(f"owner-{number:02}"))
        page = operator_client.get(LIST).content.decode()
        assert len(set(re.findall(r'href="\?owner=owner-\d+"', page))) == 8
        assert listed(operator_client, owner="owner-29")

    def test_the_field_for_an_owner_keeps_the_other_filters(
        self, operator_client: Client, alice: User
    ) -> None:
        make_run(alice)
        page = operator_client.get(LIST, {"status": "queued", "q": "alice"}).content.decode()
        form = page.partition('class="field-filter"')[2].partition("</form>")[0]
        assert '<input type="hidden" name="status" value="queued">' in form
        assert '<input type="hidden" name="q" value="alice">' in form


class TestSearch:
    def test_finds_an_id_by_its_prefix(self, operator_client: Client, alice: User) -> None:
        run, _ = make_run(alice), make_run(alice)
        assert listed(operator_client, q=str(run.pk)) == ids(run)
        assert listed(operator_client, q=run.pk.hex[:30]) == ids(run)
        assert str(run.pk) in listed(operator_client, q=str(run.pk)[:10])

    def test_finds_an_owner(self, operator_client: Client, alice: User) -> None:
        mine = make_run(alice)
        make_run(User.objects.create_user("bob"))
        assert listed(operator_client, q="LIC") == ids(mine)

    @pytest.mark.parametrize("text", ["about whales", "Über Wale", 'say "so"'])
    def test_finds_a_text_in_the_input(
        self, operator_client: Client, alice: User, text: str
    ) -> None:
        run, _ = make_run(alice), make_run(alice)
        RunInput.objects.filter(pk=run.pk).update(value={"document": f"A book {text}, long."})
        assert listed(operator_client, q=text) == ids(run)

    def test_leaves_out_large_and_old_inputs(
        self, operator_client: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.admin.search.NEWEST_INPUTS", 2)
        old, large, small = make_run(alice), make_run(alice), make_run(alice)
        RunInput.objects.update(value="whale")
        RunInput.objects.filter(pk=large.pk).update(size_bytes=10**6)
        assert listed(operator_client, q="whale") == ids(small)
        assert old.pk

    def test_combines_with_filters(self, operator_client: Client, alice: User) -> None:
        make_run(alice)
        over = make_run(alice, status=Status.SUCCESS)
        assert listed(operator_client, q="alice", status="success") == ids(over)

    @pytest.mark.parametrize("text", ["a\0b", "%", "_", "'", "\\", " "])
    def test_takes_any_text(self, operator_client: Client, alice: User, text: str) -> None:
        make_run(alice)
        listed(operator_client, q=text)


class TestRefresh:
    def test_draws_the_lines_that_exist(self, operator_client: Client, alice: User) -> None:
        run = running(alice)
        over = make_run(alice, status=Status.SUCCESS)
        gone = "01994d3c-7b1e-7a52-9c1f-3e1d9a4c8f20"
        answer = operator_client.get(
            f"{LIST}refresh/", {"ids": f"{run.pk},nonsense,{gone},{over.pk}"}
        )
        text = answer.content.decode()
        assert set(re.findall(r'<tr data-run="([^"]+)"', text)) == set(ids(run, over))
        assert "no-store" in answer["Cache-Control"]
