"""API tokens and the password, in a browser: by keyboard, on a phone, without a complaint."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.server import Server

from .test_phone import assert_fits


def test_a_token_is_made_and_revoked_by_keyboard(
    page: Page, server: Server, complaints: Complaints
) -> None:
    page.goto("/app/")
    page.locator("#user-menu summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="API tokens")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_label("What is it for?").focus()
    page.keyboard.type("a script")
    page.keyboard.press("Enter")
    field = page.get_by_label("Token", exact=True)
    expect(field).to_be_focused()
    key = field.input_value()
    headers = {"Authorization": f"Token {key}"}
    assert httpx.get(f"{server.url}/agents", headers=headers).status_code == 200
    page.get_by_role("button", name="Revoke a script").press("Enter")
    expect(page.get_by_role("status").filter(has_text="revoked")).to_be_visible()
    assert httpx.get(f"{server.url}/agents", headers=headers).status_code == 401


@pytest.mark.parametrize("address", ["/app/tokens/", "/accounts/password_change/"])
def test_the_pages_fit_a_phone(phone: Page, server: Server, address: str) -> None:
    phone.goto(address)
    expect(phone.locator("main h1")).to_be_visible()
    assert_fits(phone)
    if address == "/app/tokens/":
        phone.get_by_label("What is it for?").fill("x" * 100)
        phone.get_by_role("button", name="Make a token").click()
        expect(phone.get_by_label("Token", exact=True)).to_be_visible()
        assert_fits(phone)
