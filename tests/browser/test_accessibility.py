"""For those who can't see the page well, or have no mouse."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Complaints
from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

OpenPage = Callable[..., Page]
GRAVE = ("serious", "critical")


def assert_accessible(page: Page, within: str = "html") -> None:
    """Check that axe finds nothing grave in a part of the page as it is, in light and in dark."""
    page.evaluate(AXE_SCRIPT)
    found = _violations(page, within, {})
    page.emulate_media(color_scheme="dark")
    found += _violations(page, within, {"runOnly": ["color-contrast"]})
    page.emulate_media(color_scheme="light")
    assert not found, json.dumps(found, indent=1)


def _violations(page: Page, within: str, options: dict[str, Any]) -> list[Any]:
    return list(
        page.evaluate(
            """async ([within, options, grave]) => {
                const wanted = { resultTypes: ["violations"], ...options };
                const { violations } = await axe.run(within, wanted);
                return violations.filter(({ impact }) => grave.includes(impact))
                    .map(({ id, help, nodes }) => ({ id, help, nodes: nodes.slice(0, 4)
                        .map(({ target, failureSummary }) => [target, failureSummary]) }));
            }""",
            [within, options, GRAVE],
        )
    )


def test_axe_sees_what_is_wrong(page: Page) -> None:
    page.goto("/app/")
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    with pytest.raises(AssertionError, match="button-name"):
        assert_accessible(page)


@pytest.mark.parametrize(
    "address",
    [
        "/app/",
        "/app/runs/",
        "/app/runs/?status=error&agent=site-fail",
        "/app/agents/site-talk/",
        "/app/agents/compare/",
        f"/app/runs/{uuid.UUID(int=0)}/",
    ],
)
def test_pages_are_accessible(
    page: Page, server: Server, model: LLMServer, complaints: Complaints, address: str
) -> None:
    complaints.expect(r"status 404: GET .*/app/runs/0", r"status of 404.*/app/runs/0")
    server.until(server.start("site-fail"), "error")
    page.goto(address)
    expect(page.locator("main").get_by_role("heading", level=1)).to_be_visible()
    assert_accessible(page)


def test_the_sign_in_page_is_accessible_also_after_a_wrong_password(open_page: OpenPage) -> None:
    page = open_page(None)
    page.goto("/app/")
    assert_accessible(page)
    page.get_by_label("Username").fill("nobody")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert_accessible(page)


def test_a_form_with_errors_is_accessible(page: Page) -> None:
    page.goto("/app/agents/site-talk/")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".field-error:visible").first).to_be_visible()
    assert_accessible(page)


def test_a_run_is_accessible_in_every_state(page: Page, model: LLMServer, server: Server) -> None:
    model.hold()
    screen = RunScreen.of(page, server.start("site-talk", document="x"))
    expect(screen.in_flight("LLM")).to_be_visible()
    model.let_go()
    model.wait_for_requests(2)
    model.let_go("middle")
    expect(screen.written.last).to_have_text("The")  # the first reply may not be replaced yet
    assert_accessible(page)
    screen.stop.click()
    screen.expect_stopping()
    assert_accessible(page)
    model.release()
    screen.expect_status("stopped")
    assert_accessible(page)
    for name in ("Result", "Input", "Receipt", "Events"):
        screen.panel(name)
        assert_accessible(page, "#details")


@pytest.mark.thorough
def test_a_failed_run_and_a_tree_are_accessible(
    page: Page, model: LLMServer, server: Server
) -> None:
    screen = RunScreen.of(page, server.start("site-fail"))
    screen.expect_status("error")
    screen.line("ValueError").locator("summary").click()
    assert_accessible(page)
    model.hold()
    screen = RunScreen.of(page, server.start("site-family"))
    expect(screen.group("site-younger")).to_be_visible()
    assert_accessible(page)


def tab_to(page: Page, wanted: Locator, most: int = 80) -> None:
    """Press Tab until the focus is on a control, and check that it can be seen there."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.count() and wanted.evaluate("element => element === document.activeElement"):
            break
    expect(wanted).to_be_focused()
    rings = wanted.evaluate(
        """element => [null, "::after"].map(part => getComputedStyle(element, part))
            .filter(style => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1)
            .length"""
    )
    assert rings, f"no focus ring on {wanted}"


def test_everything_is_done_by_keyboard(open_page: OpenPage, model: LLMServer) -> None:
    model.hold()
    page = open_page(None)
    page.goto("/app/")
    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type("demo")
    tab_to(page, page.get_by_label("Password"))
    page.keyboard.type("demo")
    page.keyboard.press("Enter")

    page.wait_for_url("**/app/")
    tab_to(page, page.get_by_role("link", name="Skip to content"))
    page.keyboard.press("Enter")
    tab_to(page, page.locator("main h2").get_by_role("link", name="Talk about a document"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/agents/site-talk/")
    textarea = page.locator("textarea[data-path=document]")
    expect(textarea).to_be_visible()
    if not textarea.evaluate("element => element === document.activeElement"):
        tab_to(page, textarea)
    page.keyboard.type("A letter.")
    tab_to(page, page.locator("main").get_by_role("button", name="Run", exact=True))
    page.keyboard.press("Enter")

    screen = RunScreen(page)
    expect(screen.in_flight("LLM")).to_be_visible()
    tab_to(page, screen.stop)
    page.keyboard.press("Enter")
    screen.expect_stopping()
    model.release()
    screen.expect_status("stopped", "Stopped")
    tab_to(page, page.get_by_role("tab", selected=True), most=200)
    before = page.get_by_role("tab", selected=True).inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", selected=True)).not_to_have_text(before)


def test_the_status_is_told_to_those_who_do_not_see_it(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    screen = RunScreen.of(page, server.start("site-talk", document="x"))
    expect(screen.in_flight("LLM")).to_be_visible()
    expect(screen.stop_line).to_have_role("status")
    screen.stop.click()
    expect(page.get_by_role("status").filter(has_text="Stopping...").first).to_be_attached()
