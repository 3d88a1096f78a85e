"""On a phone nothing needs scrolling sideways, and Stop stays under the thumb."""

from __future__ import annotations

import re
import uuid

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import PHONE, Complaints
from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server


def assert_fits(page: Page) -> None:
    """Check that the page is no wider than the phone, once its style sheets are there."""
    page.wait_for_load_state("load")
    wide = page.evaluate(
        """limit => [...document.querySelectorAll("body *")]
            .filter(element => element.getBoundingClientRect().right > limit + 1)
            .map(element => element.outerHTML.slice(0, 100)).slice(0, 5)""",
        PHONE["width"],
    )
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{width} px wide: {wide}"


@pytest.mark.parametrize(
    "address",
    [
        "/app/",
        "/app/runs/",
        "/app/agents/site-talk/",
        "/app/agents/site-hostile/",
        "/app/agents/compare/",
        f"/app/runs/{uuid.UUID(int=0)}/",
    ],
)
def test_pages_fit_a_phone(
    phone: Page, server: Server, complaints: Complaints, address: str
) -> None:
    complaints.expect(r"status 404: GET .*/app/runs/0", r"status of 404.*/app/runs/0")
    phone.goto(address)
    expect(phone.locator("main")).to_be_visible()
    assert_fits(phone)


def test_the_sign_in_page_fits_a_phone(open_page: object, complaints: Complaints) -> None:
    page = open_page(None, phone=True)  # type: ignore[operator]
    page.goto("/app/")
    expect(page.get_by_label("Password")).to_be_visible()
    assert_fits(page)


def test_stop_stays_under_the_thumb_however_long_the_log(
    phone: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    screen = RunScreen.of(phone, server.start("site-flood", lines=1_200, ask_every=600))
    screen.expect_status("running")
    expect(screen.line("flood 600")).to_be_attached()
    expect(screen.stop).to_be_in_viewport(ratio=1)
    phone.evaluate("window.scrollTo(0, document.documentElement.scrollHeight / 2)")
    expect(screen.stop).to_be_in_viewport(ratio=1)
    phone.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    expect(screen.stop).to_be_in_viewport(ratio=1)
    assert_fits(phone)

    screen.stop.tap()
    screen.expect_stopping()
    assert_fits(phone)
    model.release()
    screen.expect_status("stopped", "Stopped")
    assert_fits(phone)


def test_a_run_is_started_and_stopped_by_tapping(
    phone: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    phone.goto("/app/agents/site-talk/")
    phone.locator("textarea[data-path=document]").fill("A short letter.")
    phone.get_by_role("button", name="Run", exact=True).tap()
    screen = RunScreen(phone)
    expect(screen.in_flight("LLM")).to_be_visible()
    assert_fits(phone)
    screen.stop.tap()
    screen.expect_stopping()
    expect(screen.stop_line).to_be_in_viewport()
    assert_fits(phone)
    model.release()
    screen.expect_status("stopped", "Stopped")
    expect(screen.panel("Receipt")).to_contain_text(re.compile("Stopped by demo at"))
    assert_fits(phone)


def test_a_hostile_run_fits_a_phone(phone: Page, model: LLMServer, server: Server) -> None:
    id = server.start("site-hostile")
    screen = RunScreen.of(phone, id)
    screen.expect_status("success")
    for name in ("Result", "Input", "Receipt", "Events"):
        screen.panel(name)
        assert_fits(phone)
