"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import Complaints, People
from tests.support.frames import run_frame
from tests.support.log_page import Log
from tests.support.server import Server


@pytest.fixture(scope="package")
def heard() -> Complaints:
    return Complaints()


@pytest.fixture
def complaints(heard: Complaints) -> Iterator[Complaints]:
    yield heard
    try:
        heard.assert_none()
    finally:
        heard.forget()


@pytest.fixture(scope="package")
def shared_page(browser: Browser, shared_server: Server, heard: Complaints) -> Iterator[Page]:
    """One page for all: a ``Log`` takes the place of the one before.

    Nobody is signed in: a page where nothing else goes on.
    """
    people = People(browser, shared_server.url, heard)
    yield people.open(None)
    people.close()


@pytest.fixture
def page(shared_page: Page, complaints: Complaints) -> Page:
    return shared_page


@pytest.fixture
def log(page: Page) -> Log:
    log = Log(page)
    log.apply(run_frame("root", "teller"))
    return log
