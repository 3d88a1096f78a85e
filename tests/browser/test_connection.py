"""The page knows what it does not know: it says when it is cut off, and catches up by itself."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

LOST = re.compile("connection.*lost|offline", re.I)
CUT_OFF = (r"ERR_INTERNET_DISCONNECTED", r"WebSocket connection to .* failed")


def test_a_page_that_was_cut_off_says_so_and_catches_up(
    page: Page, model: LLMServer, server: Server, complaints: Complaints
) -> None:
    complaints.expect(*CUT_OFF)
    model.hold()
    id = server.start("site-talk", document="x")
    screen = RunScreen.of(page, id)
    expect(screen.in_flight("LLM")).to_be_visible()
    expect(screen.connection).not_to_contain_text(LOST)

    page.context.set_offline(True)
    expect(screen.connection).to_contain_text(LOST)
    server.client.post(f"/runs/{id}/stop")
    model.release()
    server.until(id, "stopped")
    screen.expect_status("running")  # it can't know better

    page.context.set_offline(False)
    screen.expect_status("stopped", "Stopped")
    expect(screen.connection).not_to_contain_text(LOST)
    expect(screen.line("Stop took effect")).to_be_visible()
    lines = [event["seq"] for event in server.events(id) if event["type"] != "progress"]
    assert screen.seqs(id) == lines


def test_signing_out_in_another_tab_ends_the_live_view(
    open_page: Callable[..., Page], model: LLMServer, server: Server, complaints: Complaints
) -> None:
    page = open_page(own_session=True)
    complaints.expect(r"WebSocket connection to .* failed", "status 401", "status of 401")
    model.hold()
    id = server.start("site-talk", document="x")
    screen = RunScreen.of(page, id)
    expect(screen.in_flight("LLM")).to_be_visible()

    other = page.context.new_page()
    other.goto("/app/")
    other.locator("#user-menu summary").click()
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_label("Password")).to_be_visible()

    expect(screen.connection).to_contain_text(re.compile("signed out|sign in", re.I))
    model.release()
    server.until(id, "success")
    screen.expect_status("running")  # what happens now is not for everybody's eyes

    screen.connection.get_by_role("link", name=re.compile("sign in", re.I)).click()
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Sign in").click()
    assert screen.id == id
    screen.expect_status("success", "Done")
