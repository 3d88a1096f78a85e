"""A deadline on the page and in the admin: it counts down, and then says what happened."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

from .test_admin_detail import AdminScreen

OpenPage = Callable[..., Page]


@pytest.mark.parametrize(("user", "screen_of"), [("demo", RunScreen), ("admin", AdminScreen)])
def test_it_counts_down_and_the_receipt_names_it(
    open_page: OpenPage,
    model: LLMServer,
    server: Server,
    user: str,
    screen_of: type[RunScreen],
) -> None:
    model.hold()
    id = server.start("site-talk", document="A long letter.")
    model.wait_for_requests(1)
    page = open_page(user)
    screen = screen_of.of(page, id)
    screen.expect_status("running", "Running")
    left = page.locator("#time-left")
    expect(left).to_be_hidden()

    answer = server.client.post(f"/runs/{id}/limits", json={"deadline_seconds": 3600})
    assert answer.status_code == 200, answer.text
    expect(left).to_have_text(re.compile(r"stops in \s*59:\d\d"))
    before = left.inner_text()
    expect(left).not_to_have_text(before)

    started = server.run(id)["started_at"]
    assert started
    answer = server.client.post(f"/runs/{id}/limits", json={"deadline_seconds": 0.5})
    assert answer.status_code == 200, answer.text  # it has run for longer
    screen.expect_stopping()
    expect(left).to_be_hidden()
    model.release()
    screen.expect_status("stopped", "Stopped")
    expect(page.locator("#receipt-line")).to_contain_text("It reached its deadline of 0.5 s.")
    expect(screen.line("It reached its deadline of 0.5 s")).to_be_visible()
