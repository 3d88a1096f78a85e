"""The header and the sidebar, as they are used."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.server import Server

OpenPage = Callable[..., Page]


def test_signing_in_and_out(open_page: OpenPage) -> None:
    page = open_page(None)
    page.goto("/app/runs/?status=error")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/app/runs/\?status=error$"))
    page.locator("#user-menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile(r"/accounts/login/$"))
    expect(page.get_by_text("You are signed out.")).to_be_visible()


def test_a_stale_sign_in_page_helps_to_begin_again(
    open_page: OpenPage, complaints: Complaints
) -> None:
    complaints.expect("status 403: POST .*/accounts/login", "status of 403")
    page = open_page(None)
    page.goto("/accounts/login/?next=/app/runs/")
    page.context.clear_cookies()
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="This page was out of date")).to_be_visible()
    page.get_by_role("link", name="Sign in again").click()
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/app/runs/$"))


def test_the_menu_closes_on_escape_and_on_a_click_elsewhere(page: Page) -> None:
    page.goto("/app/")
    menu = page.locator("#user-menu")
    summary = menu.locator("summary")
    sign_out = page.get_by_role("button", name="Sign out")
    summary.focus()
    page.keyboard.press("Enter")
    expect(sign_out).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(sign_out).to_be_hidden()
    expect(summary).to_be_focused()
    summary.click()
    expect(sign_out).to_be_visible()
    page.locator("main").click(position={"x": 5, "y": 5})
    expect(sign_out).to_be_hidden()


def test_the_keyboard_gets_past_the_header_at_once(page: Page) -> None:
    page.goto("/app/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_count_and_past_runs_follow_without_a_reload(page: Page, server: Server) -> None:
    page.goto("/app/")
    count = page.locator("#active-count")
    expect(count).to_be_hidden()
    page.evaluate("window.wasLoadedOnce = true")

    id = server.start("site-loop")
    entry = page.locator(f'#past-runs [data-run="{id}"]')
    expect(entry).to_have_attribute("data-status", "running")
    expect(page.locator("#past-runs [data-run]").first).to_have_attribute("data-run", id)
    expect(entry.locator(".side-title")).to_have_text("Site loop")
    expect(count).to_have_text(re.compile(r"^\s*1 running\s*$"))

    server.client.post(f"/runs/{id}/stop")
    expect(entry).to_have_attribute("data-status", "stopped")
    expect(entry.locator(".side-word")).to_have_text("Stopped")
    expect(count).to_be_hidden()
    assert page.evaluate("window.wasLoadedOnce")


def test_called_runs_stay_out_of_count_and_past_runs(page: Page, server: Server) -> None:
    page.goto("/app/runs/?called=1")
    root = server.start("site-tree", width=2)
    expect(page.locator('#runs tr[data-status="running"]')).to_have_count(3)
    expect(page.locator("#active-count .number")).to_have_text("1")
    children = server.client.get("/runs", params={"parent": root}).json()["results"]
    for child in children:
        expect(page.locator(f'#past-runs [data-run="{child["id"]}"]')).to_have_count(0)


def test_what_ended_while_the_connection_was_lost_is_found_out(
    page: Page, server: Server, complaints: Complaints
) -> None:
    complaints.expect("ERR_INTERNET_DISCONNECTED", "WebSocket")
    id = server.start("site-loop")
    page.goto("/app/")
    entry = page.locator(f'#past-runs [data-run="{id}"]')
    expect(entry).to_have_attribute("data-status", "running")
    # A connection that is open outlives Chromium's offline mode: cut it, too.
    page.goto("about:blank")
    sockets: list[object] = []
    page.route_web_socket(
        re.compile("/ws/runs"),
        lambda socket: (sockets.append(socket), socket.connect_to_server())[1],
    )
    page.goto("/app/")
    expect(entry).to_have_attribute("data-status", "running")
    page.context.set_offline(True)
    for socket in sockets:
        socket.close()  # type: ignore[attr-defined]
    server.client.post(f"/runs/{id}/stop")
    other = server.start("site-trivial")
    server.until(id, "stopped")
    server.until(other, "success")
    page.context.set_offline(False)
    expect(entry).to_have_attribute("data-status", "stopped")
    expect(page.locator(f'#past-runs [data-run="{other}"]')).to_have_attribute(
        "data-status", "success"
    )
    expect(page.locator("#active-count")).to_be_hidden()
