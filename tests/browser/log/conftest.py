"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.support.frames import run_frame
from tests.support.log_page import Log


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page(None)  # nobody is signed in: a page where nothing else goes on


@pytest.fixture
def log(page: Page) -> Log:
    log = Log(page)
    log.apply(run_frame("root", "teller"))
    return log
