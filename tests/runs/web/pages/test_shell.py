"""What surrounds the pages: the first page, header, sidebar, errors."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, RequestFactory

from agents import Tools, agent, registry
from runs.status import Status
from runs.templatetags.docstrings import first_paragraph
from runs.web import error_pages
from tests.support.rows import make_run, requested

HTML = {"accept": "text/html"}
NOBODYS = uuid.UUID(int=7)


@pytest.fixture
def no_agents() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def page(alice: User, client: Client) -> Client:
    client.force_login(alice)
    return client


def part(content: str, begin: str, end: str) -> str:
    assert begin in content
    return content.partition(begin)[2].partition(end)[0]


def sidebar(client: Client, path: str = "/app/") -> str:
    return part(client.get(path).content.decode(), 'id="past-runs"', "</ul>")


class TestHome:
    def test_agents_are_cards_that_lead_to_their_pages(self, page: Client, no_agents: None) -> None:
        @agent("echo", title="Say it again", description="Says ``text``.\n\nAnd more.")
        async def echo(tools: Tools, text: str) -> str:
            return text

        main = part(page.get("/app/").content.decode(), "<main", "</main>")
        assert '<a href="/app/agents/echo/">Say it again</a>' in main
        assert "<p>Says <code>text</code>.</p>" in main
        assert "And more" not in main

    def test_without_agents_it_says_how_to_add_one(self, page: Client, no_agents: None) -> None:
        content = page.get("/app/").content.decode()
        assert "No agents are installed" in content
        assert "README" in content

    def test_without_runs_it_says_what_to_do(self, page: Client) -> None:
        assert "Pick an agent above" in page.get("/app/").content.decode()

    def test_the_newest_own_runs_are_listed(self, page: Client, alice: User) -> None:
        own = make_run(alice)
        make_run(alice, parent=own)
        make_run(User.objects.create_user("bob"))
        table = part(page.get("/app/").content.decode(), "<tbody", "</tbody>")
        assert re.findall(r'data-run="([^"]+)"', table) == [str(own.pk)]

    @pytest.mark.parametrize(("key", "is_said"), [("", True), ("secret", False)])
    def test_the_stand_in_is_named_when_it_answers(
        self, page: Client, settings: Any, key: str, is_said: bool
    ) -> None:
        settings.RUNS = {**settings.RUNS, "LLM": {"API_KEY": key}}
        assert ("stand-in" in page.get("/app/").content.decode()) is is_said

    def test_hostile_titles_and_descriptions_are_shown_as_text(
        self, page: Client, no_agents: None
    ) -> None:
        @agent("evil", title="<script>alert(1)</script>", description="``<img src=x>`` <b>")
        async def evil(tools: Tools) -> None: ...

        content = page.get("/app/").content.decode()
        assert "<script>alert" not in content
        assert "<img" not in content
        assert "<b>" not in content


@pytest.mark.parametrize(
    ("description", "html"),
    [
        ("", ""),
        ("One\n  line.", "One line."),
        ("First.\n \nSecond.", "First."),
        ("``a`` and ``b <i>``", "<code>a</code> and <code>b &lt;i&gt;</code>"),
        ("`` unpaired", "`` unpaired"),
    ],
)
def test_the_first_paragraph_of_a_description(description: str, html: str) -> None:
    assert first_paragraph(description) == html


class TestHeader:
    def test_it_counts_own_runs_that_are_not_over(self, page: Client, alice: User) -> None:
        root = make_run(alice, status=Status.RUNNING)
        make_run(alice, status=Status.RUNNING, **requested(alice))
        make_run(alice, status=Status.RUNNING, parent=root)
        make_run(alice, status=Status.SUCCESS)
        make_run(User.objects.create_user("bob"), status=Status.RUNNING)
        content = page.get("/app/").content.decode()
        assert '<span class="number">2</span> running' in content

    def test_it_says_nothing_when_nothing_runs(self, page: Client) -> None:
        link = part(page.get("/app/").content.decode(), 'id="active-count"', ">")
        assert link.endswith(" hidden")

    def test_its_count_leads_to_just_these_runs(self, alice: User, page: Client) -> None:
        alice.user_permissions.set(Permission.objects.filter(codename="view_runrecord"))
        make_run(alice, status=Status.RUNNING)
        make_run(User.objects.create_user("bob"), status=Status.RUNNING)
        content = page.get("/app/").content.decode()
        address = part(content, 'id="active-count" href="', '"').replace("&amp;", "&")
        table = part(page.get(address).content.decode(), "<tbody", "</tbody>")
        assert table.count("<tr") == 1

    def test_only_staff_are_shown_the_administration(self, page: Client, alice: User) -> None:
        assert "Administration" not in page.get("/app/").content.decode()
        User.objects.filter(pk=alice.pk).update(is_staff=True)
        assert "Administration" in page.get("/app/").content.decode()

    def test_the_present_section_is_marked(self, page: Client) -> None:
        for path, name in (("/app/", "Agents"), ("/app/runs/", "Runs")):
            nav = part(page.get(path).content.decode(), 'class="top-nav"', "</nav>")
            assert re.findall(r'aria-current="true">(\w+)<', nav) == [name]


class TestSidebar:
    def test_own_runs_newest_first_with_their_status_as_a_word(
        self, page: Client, alice: User
    ) -> None:
        older = make_run(alice, status=Status.ERROR)
        newer = make_run(alice, status=Status.RUNNING, **requested(alice))
        make_run(alice, parent=older)
        make_run(User.objects.create_user("bob"))
        side = sidebar(page)
        assert re.findall(r'data-run="([^"]+)"', side) == [str(newer.pk), str(older.pk)]
        assert re.findall(r'side-word">([^<]+)<', side) == ["Stopping...", "Error"]

    def test_it_never_loads_results(
        self, page: Client, alice: User, django_assert_num_queries: Any
    ) -> None:
        for _ in range(15):
            make_run(alice, status=Status.SUCCESS, result="x" * 1000)
        with django_assert_num_queries(9) as queries:
            page.get("/app/")
        assert not [query for query in queries if '."result"' in query["sql"]]

    def test_an_agent_that_is_gone_goes_by_its_name(self, page: Client, alice: User) -> None:
        make_run(alice, agent="<of-old>")
        assert "&lt;of-old&gt;" in sidebar(page)

    def test_without_runs_it_says_what_to_do(self, page: Client) -> None:
        assert "None yet. Pick an agent." in sidebar(page)


class TestQuotas:
    @pytest.mark.parametrize("path", ["/app/", "/app/runs/"])
    def test_are_told_from_four_fifths_on(
        self, page: Client, alice: User, settings: Any, path: str
    ) -> None:
        settings.RUNS = {**settings.RUNS, "MAX_QUEUED_PER_OWNER": 5}
        for _ in range(3):
            make_run(alice)
        assert "runs are queued" not in page.get(path).content.decode()
        make_run(alice)
        assert "4 of at most 5 runs are queued.<" in page.get(path).content.decode()
        make_run(alice)
        text = page.get(path).content.decode()
        assert "5 of at most 5 runs are queued. No more can be started" in text


class TestErrors:
    @pytest.mark.parametrize("path", [f"/app/runs/{NOBODYS}/", "/app/agents/nobody/"])
    @pytest.mark.parametrize("debug", [True, False])
    def test_a_thing_that_is_not_there_has_our_own_page_in_debug_too(
        self, page: Client, settings: Any, path: str, debug: bool
    ) -> None:
        settings.DEBUG = debug
        response = page.get(path, headers=HTML)
        assert response.status_code == 404
        content = response.content.decode()
        assert "There is nothing here" in content
        assert "URLconf" not in content

    def test_what_may_not_be_seen_looks_just_the_same(self, page: Client) -> None:
        hidden = make_run(User.objects.create_user("bob"))
        answers = {
            page.get(f"/app/runs/{id}/", headers=HTML).content for id in (hidden.pk, NOBODYS)
        }
        assert len(answers) == 1

    def test_programs_get_json_from_the_page_s_addresses(self, page: Client) -> None:
        headers = {"accept": "application/json"}
        response = page.get(f"/app/runs/{NOBODYS}/", headers=headers)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    def test_an_unknown_address_shows_django_s_page_in_debug(
        self, client: Client, settings: Any
    ) -> None:
        settings.DEBUG = True
        assert b"URLconf" in client.get("/app/nowhere/", headers=HTML).content

    # Without the django_db mark: whoever asks the database here fails.
    @pytest.mark.parametrize(
        ("status", "view", "heading"),
        [
            (400, error_pages.bad_request, "The request could not be understood"),
            (403, error_pages.permission_denied, "You may not do this"),
            (404, error_pages.not_found, "There is nothing here"),
        ],
    )
    def test_error_pages_need_no_database(self, status: int, view: Any, heading: str) -> None:
        response = view(RequestFactory().get("/app/", headers=HTML), Exception())
        self._check(response, status, heading)

    def test_the_page_of_a_failure_needs_no_database(self) -> None:
        response = error_pages.server_error(RequestFactory().get("/app/", headers=HTML))
        self._check(response, 500, "The server failed")

    def _check(self, response: Any, status: int, heading: str) -> None:
        content = response.content.decode()
        assert response.status_code == status
        assert f"<h1>{heading}</h1>" in content
        assert 'href="/app/"' in content
        assert "sidebar.js" not in content  # nobody is known to be signed in


@pytest.mark.parametrize("path", ["/app/", "/app/runs/"])
def test_pages_have_their_landmarks_and_a_way_past_the_header(page: Client, path: str) -> None:
    content = page.get(path).content.decode()
    assert content.count("<main") == content.count("<h1") == 1
    assert content.index('class="skip-link" href="#main"') < content.index("<header")
    assert "<style" not in content
    assert " style=" not in content
    assert not re.search(r"<script(?![^>]* src=)(?![^>]*application/json)", content)


@pytest.mark.parametrize("path", ["/app/", "/app/runs/"])
def test_pages_are_never_stored(page: Client, path: str) -> None:
    assert page.get(path).headers["Cache-Control"] == "no-store"
