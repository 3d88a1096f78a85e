"""The page of the API's documentation, which a script draws."""

from __future__ import annotations

import httpx
from playwright.sync_api import Page

from tests.support.server import Server


def test_it_shows_every_operation_without_a_complaint(page: Page, server: Server) -> None:
    complaints: list[str] = []  # warnings, too
    page.on("console", lambda line: complaints.append(line.text))
    paths = httpx.get(f"{server.url}/api/schema").json()["paths"]
    operations = [path for path, methods in paths.items() for _ in methods]
    page.goto("/api/docs")
    page.locator(".opblock").nth(len(operations) - 1).wait_for()
    shown = page.locator(".opblock-summary-path").all_inner_texts()
    assert len(shown) == len(operations)
    assert complaints == []
