"""The list of runs: who sees what, the filters, the pages, and what a row offers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from runs.models import RunRecord
from runs.status import Status
from tests.support.rows import make_run, requested

pytestmark = pytest.mark.django_db

LIST = "/app/runs/"


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def page(alice: User, client: Client) -> Client:
    """Alice's browser."""
    client.force_login(alice)
    return client


def rows(client: Client, **query: Any) -> list[str]:
    """Return the ids of the runs listed, in their order."""
    response = client.get(LIST, query)
    assert response.status_code == 200, response.content
    table = response.content.decode().partition('id="runs"')[2].partition("</table>")[0]
    return re.findall(r'data-run="([^"]+)"', table)


def ids(*runs: RunRecord) -> list[str]:
    return [str(run.pk) for run in runs]


def client_of(user: User, *permissions: str) -> Client:
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


class TestVisibility:
    def test_others_runs_never_appear(self, page: Client, alice: User, bob: User) -> None:
        own = make_run(alice)
        make_run(bob)
        assert rows(page) == ids(own)
        assert rows(page, owner="bob") == []
        assert "Owner</th>" not in page.get(LIST).content.decode()

    def test_whoever_may_view_all_sees_all_and_whose_they_are(self, alice: User, bob: User) -> None:
        first, second = make_run(alice), make_run(bob)
        viewer = client_of(User.objects.create_user("viewer"), "view_runrecord")
        assert rows(viewer) == ids(second, first)
        assert rows(viewer, owner="bob") == ids(second)
        assert "Owner</th>" in viewer.get(LIST).content.decode()

    def test_stop_is_offered_to_those_who_may(self, alice: User, bob: User) -> None:
        run = make_run(bob)
        address = f'data-address="/app/runs/{run.pk}/stop"'
        viewer = client_of(User.objects.create_user("viewer"), "view_runrecord")
        assert address not in viewer.get(LIST).content.decode()
        operator = client_of(alice, "view_runrecord", "stop_runrecord")
        assert address in operator.get(LIST).content.decode()

    def test_strangers_are_led_to_the_sign_in_page_and_back(self, client: Client) -> None:
        response = client.get(f"{LIST}?status=error")
        assert response.status_code == 302
        assert response["Location"] == "/accounts/login/?next=/app/runs/%3Fstatus%3Derror"


class TestRows:
    def test_a_run_that_is_over_has_no_stop(self, page: Client, alice: User) -> None:
        make_run(alice, status=Status.SUCCESS)
        assert "data-address" not in page.get(LIST).content.decode()

    def test_a_stopping_run_has_a_stop_that_is_disabled(self, page: Client, alice: User) -> None:
        make_run(alice, status=Status.RUNNING, **requested(alice))
        content = page.get(LIST).content.decode()
        assert 'data-status="stopping"' in content
        assert re.search(r"<button[^>]* disabled>.*?Stopping\.\.\.</span>", content)

    def test_a_finished_run_shows_how_long_it_took_and_what_it_used(
        self, page: Client, alice: User
    ) -> None:
        begin = timezone.now() - timedelta(hours=1)
        make_run(
            alice,
            status=Status.SUCCESS,
            started_at=begin,
            finished_at=begin + timedelta(seconds=102),
            llm_calls=7,
            input_tokens=12_000,
            output_tokens=400,
        )
        content = page.get(LIST).content.decode()
        assert ">1:42</td>" in content
        assert "7 LLM calls · 12.4k tokens" in content
        assert "data-since" not in content

    def test_the_duration_of_a_running_run_ticks(self, page: Client, alice: User) -> None:
        make_run(alice, status=Status.RUNNING)
        make_run(alice, status=Status.QUEUED)
        assert page.get(LIST).content.decode().count("data-since") == 1

    def test_hostile_names_are_shown_as_text(self, page: Client, alice: User) -> None:
        User.objects.filter(pk=alice.pk).update(username="<i>mallory</i>", is_superuser=True)
        make_run(alice, agent="<script>alert(1)</script>")
        content = page.get(LIST, {"agent": '"><script>', "owner": "<b>", "status": "<u>"})
        for address in (page.get(LIST), content):
            text = address.content.decode()
            assert "<script>alert" not in text
            assert '"><script>' not in text
            assert "<i>mallory" not in text
            assert "<b>" not in text
            assert "<u>" not in text

    @pytest.mark.parametrize("count", [1, 50])
    def test_the_number_of_queries_does_not_grow_with_the_runs(
        self, page: Client, alice: User, count: int, django_assert_num_queries: Any
    ) -> None:
        alice.user_permissions.set(Permission.objects.filter(codename="view_runrecord"))
        for _ in range(count):
            make_run(alice, status=Status.RUNNING, **requested(alice))
        # session, user; permissions (own, groups'); the list; past runs; how many are going on;
        # quotas (2)
        with django_assert_num_queries(9):
            assert len(rows(page)) == count


class TestFilters:
    def test_runs_that_agents_called_are_left_out_unless_asked_for(
        self, page: Client, alice: User
    ) -> None:
        root = make_run(alice, agent="of-old")
        child = make_run(alice, parent=root, created_at=timezone.now())
        assert rows(page) == ids(root)
        assert rows(page, called="1") == ids(child, root)
        content = page.get(LIST, {"called": "1"}).content.decode()
        assert re.findall(r'href="([^"]+)" dir="auto">of-old</a></span>', content) == [
            f"/app/runs/{root.pk}/"
        ]

    def test_several_statuses_stopping_among_them(self, page: Client, alice: User) -> None:
        error = make_run(alice, status=Status.ERROR)
        make_run(alice, status=Status.RUNNING)
        stopping = make_run(alice, status=Status.RUNNING, **requested(alice))
        assert rows(page, status=["stopping", "error"]) == ids(stopping, error)
        assert rows(page, status="stopping,error") == ids(stopping, error)

    def test_by_agent_also_one_that_is_gone(self, page: Client, alice: User) -> None:
        old = make_run(alice, agent="of-old")
        make_run(alice, agent="summarise")
        assert rows(page, agent="of-old") == ids(old)
        content = page.get(LIST, {"agent": "of-old"}).content.decode()
        assert '<option value="of-old" selected>of-old</option>' in content

    def test_fields_left_empty_ask_for_nothing(self, page: Client, alice: User) -> None:
        run = make_run(alice)
        assert rows(page, **{"agent": "", "owner": "", "from": "", "to": "", "zone": ""}) == ids(
            run
        )

    def test_days_are_whole_and_the_readers(self, page: Client, alice: User) -> None:
        late = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
        run = make_run(alice, created_at=late)
        assert rows(page, **{"from": "2026-01-31", "to": "2026-01-31"}) == ids(run)
        assert rows(page, to="2026-01-30") == []
        assert rows(page, **{"from": "2026-02-01"}) == []
        # Where the sun rises earlier it was February.
        assert rows(page, **{"from": "2026-02-01", "zone": "Asia/Tokyo"}) == ids(run)
        assert rows(page, to="2026-01-31", zone="Asia/Tokyo") == []

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"status": "done"}, "&quot;done&quot; is no status. There are: queued, running,"),
            ({"from": "yesterday"}, "This is no date. Write it like 2026-01-31."),
            ({"to": "9999-12-31"}, "This is no date."),
            ({"from": "2026-02-01", "to": "2026-01-31"}, "This is before the first day."),
            ({"agent": "nul\0"}, "Null characters are not allowed."),
            ({"cursor": "nonsense"}, "This address leads to no page of the list."),
        ],
    )
    def test_wrong_values_are_explained_and_nothing_is_listed(
        self, page: Client, alice: User, query: dict[str, str], message: str
    ) -> None:
        make_run(alice)
        response = page.get(LIST, query)
        assert response.status_code == 400
        content = response.content.decode()
        assert message in content
        assert "<tr role" not in content.partition("<tbody")[2]

    def test_each_filter_can_be_taken_away(self, page: Client) -> None:
        response = page.get(
            LIST, {"status": ["error", "stopped"], "agent": "x", "called": "1", "cursor": ""}
        )
        content = response.content.decode()
        found = re.findall(r'href="\?([^"]*)"><span class="visually-hidden">Remove', content)
        assert found == [
            "status=stopped&amp;agent=x&amp;called=1",
            "status=error&amp;agent=x&amp;called=1",
            "status=error&amp;status=stopped&amp;called=1",
            "status=error&amp;status=stopped&amp;agent=x",
        ]


class TestPages:
    def test_older_and_newer_lead_there_and_back(self, page: Client, alice: User) -> None:
        runs = [make_run(alice, agent="x") for _ in range(120)]
        newest_first = ids(*sorted(runs, key=lambda run: (run.created_at, run.pk), reverse=True))
        query = "agent=x"
        seen: list[str] = []
        while query:
            content = page.get(f"{LIST}?{query}").content.decode()
            table = content.partition("<tbody")[2].partition("</tbody>")[0]
            seen += re.findall(r'data-run="([^"]+)"', table)
            last, query = query, link(content, "next")
        assert seen == newest_first
        back = page.get(f"{LIST}?{link(page.get(f'{LIST}?{last}').content.decode(), 'prev')}")
        table = back.content.decode().partition("<tbody")[2].partition("</tbody>")[0]
        assert re.findall(r'data-run="([^"]+)"', table) == newest_first[50:100]

    def test_new_runs_are_only_awaited_on_the_first_page(self, page: Client, alice: User) -> None:
        for _ in range(51):
            make_run(alice)
        first = page.get(LIST).content.decode()
        assert " data-grows" in first
        assert " data-grows" not in page.get(f"{LIST}?{link(first, 'next')}").content.decode()


class TestNothingToShow:
    def test_without_any_run_it_says_what_to_do(self, page: Client) -> None:
        assert "Nothing has been run yet" in page.get(LIST).content.decode()

    def test_without_a_match_it_offers_all_runs(self, page: Client, alice: User) -> None:
        make_run(alice)
        content = page.get(LIST, {"status": "error"}).content.decode()
        assert "No run matches these filters" in content
        assert "Nothing has been run yet" not in content


def link(content: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="\?([^"]+)"', content)
    return found[1].replace("&amp;", "&") if found else ""
