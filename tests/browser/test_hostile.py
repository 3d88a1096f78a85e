"""Whatever agents, models and people write is text: it does nothing, and it stays in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.llm_server import Answer, LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server
from tests.support.site.watch import HOSTILE

OpenPage = Callable[..., Page]

#: What stands in the hostile texts and would be an element if it were not text.
INJECTED = ", ".join(
    [
        "main script:not([type='application/json'])",
        "main iframe",
        "main style",
        "svg[onload]",
        "[onerror]",
        "[onclick]",
        "img[src='x']",
        "img[src*='elsewhere']",
        "a[href^='javascript:' i]",
        "a[href^='data:text' i]",
    ]
)


def assert_harmless(page: Page) -> None:
    """Check that nothing was taken for markup; that nothing ran is what ``complaints`` hears."""
    expect(page.locator(INJECTED)).to_have_count(0)
    assert page.title() != "owned"
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1], "a long word makes the page wider than the window"


@pytest.fixture
def evil_model(model: LLMServer) -> LLMServer:
    model.answer = Answer(pieces=[HOSTILE[:20], HOSTILE[20:], "<b>bold</b>"])
    return model


@pytest.mark.parametrize("shape", ["markdown", "json", "error"])
def test_a_hostile_run_is_only_text(
    page: Page, evil_model: LLMServer, server: Server, shape: str
) -> None:
    id = server.start("site-hostile", shape=shape, text=HOSTILE)
    screen = RunScreen.of(page, id)
    screen.expect_status("error" if shape == "error" else "success")
    expect(screen.line("<script>document.title='owned'</script>").first).to_be_visible()
    for name in ("Result", "Input", "Receipt", "Events"):
        screen.panel(name)
        assert_harmless(page)
    expect(screen.panel("Result")).to_contain_text("<script>document.title='owned'</script>")
    expect(screen.panel("Input")).to_contain_text("<script>document.title='owned'</script>")
    folded = screen.log.get_by_role("button", name="Show all")
    while folded.count():
        folded.first.click()
    for summary in screen.log.locator("summary").all():
        summary.click()
    assert_harmless(page)


def test_hostile_text_that_streams_and_a_hostile_reason_are_only_text(
    page: Page, evil_model: LLMServer, server: Server
) -> None:
    evil_model.hold()
    id = server.start("site-hostile", text=HOSTILE)
    screen = RunScreen.of(page, id)
    expect(screen.in_flight("LLM")).to_contain_text("model <script>")
    evil_model.let_go("middle")
    expect(screen.written).to_contain_text(HOSTILE[:20])
    server.client.post(f"/runs/{id}/stop", json={"reason": HOSTILE[:150]})
    screen.expect_stopping()
    expect(screen.stop_line).to_contain_text("model <script>")
    assert_harmless(page)
    evil_model.release()
    expect(page.locator("main")).not_to_have_attribute("data-status", "stopping")
    expect(screen.panel("Receipt")).to_contain_text("reason: <script>")
    assert_harmless(page)


@pytest.mark.parametrize("address", ["/app/", "/app/runs/", "/app/agents/site-hostile/"])
def test_a_hostile_agent_is_only_text_wherever_it_is_named(
    page: Page, server: Server, evil_model: LLMServer, address: str
) -> None:
    server.until(server.start("site-hostile"), "success")
    page.goto(address)
    expect(page.locator("main")).to_contain_text("<script>document.title='owned'</script>")
    assert_harmless(page)


def test_a_hostile_address_is_only_text(page: Page, complaints: Complaints) -> None:
    complaints.expect("status 400: GET", "status of 400")
    page.goto("/app/runs/?agent=%3Cscript%3Ealert(1)%3C/script%3E&status=%22%3E%3Cimg%20src=x%3E")
    assert_harmless(page)
