"""A server, a browser and a model, shared by all tests in here, since each start costs seconds.

Package scope, not session scope: as long as Playwright's synchronous interface is open, its loop
counts as the running one of this thread, and no asynchronous test of another folder could begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browser import TIMEOUT_MILLISECONDS, Complaints, People, launch
from tests.support.llm_server import Answer, LLMServer
from tests.support.server import Installation, Server, eventually

OpenPage = Callable[..., Page]


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def endpoint() -> Iterator[LLMServer]:
    """The model of all runs in here; a test that has anything to say to it takes ``model``."""
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, endpoint: LLMServer) -> Installation:
    folder = tmp_path_factory.mktemp("installation")
    return Installation(
        folder,
        LLM_BASE_URL=endpoint.base_url,
        LLM_API_KEY="none",
        LLM_MODEL="llama3",
    )


@pytest.fixture(scope="package")
def shared_server(installation: Installation) -> Iterator[Server]:
    with installation.serving() as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The server; what a test leaves running on it is stopped. A module may have its own."""
    yield shared_server
    stop_everything(shared_server)


@pytest.fixture
def model(endpoint: LLMServer, server: Server) -> Iterator[LLMServer]:
    """The model, for a test that holds its calls or tells it what to say."""
    endpoint.requests.clear()
    yield endpoint
    endpoint.release()
    endpoint.answers.clear()
    endpoint.answer = Answer()


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """What goes wrong in the browser, which fails the test unless it expects that."""
    complaints = Complaints()
    yield complaints
    complaints.assert_none()


@pytest.fixture(scope="package")
def sessions() -> dict[tuple[str, str], Any]:
    """The cookies of those who have signed in."""
    return {}


@pytest.fixture
def open_page(
    browser: Browser, server: Server, complaints: Complaints, sessions: dict[tuple[str, str], Any]
) -> Iterator[OpenPage]:
    """Open a page in a window of its own: ``open_page("admin", phone=True, dark=True)``.

    A second tab of the same window is ``page.context.new_page()``. Who is going to sign out
    takes an ``own_session``: the others are everybody's.
    """
    people = People(browser, server.url, complaints)

    def open(user: str | None = "demo", *, own_session: bool = False, **options: Any) -> Page:
        return people.open(user, sessions=None if own_session else sessions, **options)

    yield open
    people.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """An empty page, light, on a desktop, with ``demo`` signed in."""
    return open_page()


@pytest.fixture
def phone(open_page: OpenPage) -> Page:
    return open_page(phone=True)


@pytest.fixture
def dark(open_page: OpenPage) -> Page:
    return open_page(dark=True)


def stop_everything(server: Server) -> None:
    """Stop whatever still runs, so that the next test begins with nothing in flight."""

    def nothing_runs() -> bool:
        try:
            active = server.client.get(
                "/runs", params={"status": ["queued", "running", "stopping"]}
            )
        except httpx.TransportError:
            return True  # the test has ended the server
        runs = [run for run in active.json()["results"] if run["parent"] is None]
        for run in runs:
            server.client.post(f"/runs/{run['id']}/stop")
        return not runs

    eventually(nothing_runs, "everything has stopped")
