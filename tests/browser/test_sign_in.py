"""Who comes in, and who does not."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def test_the_first_page_greets_whoever_is_signed_in(page: Page) -> None:
    page.goto("/app/")
    expect(page.locator("#main")).to_be_visible()
    expect(page.locator("#user-menu summary")).to_contain_text("demo")
