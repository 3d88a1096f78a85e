"""Fixtures of the tests in this folder."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.support.form_page import (
    OpenPage,
)


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """An empty page that leads to runs, but shows nothing of them: they are others' business."""
    page = open_page()
    page.route("**/app/runs/*/", lambda route: route.fulfill(content_type="text/html", body=""))
    return page
