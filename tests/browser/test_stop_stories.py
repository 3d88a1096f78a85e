"""Somebody starts an agent, reads along, presses Stop, and believes what the page then says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import Complaints
from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server, eventually

OpenPage = Callable[..., Page]
WAITS = "Stopping... (after current LLM call completes"


@pytest.fixture
def held(page: Page, model: LLMServer, server: Server) -> RunScreen:
    """A run whose second model call is held, on the page."""
    model.hold()
    screen = RunScreen.of(page, server.start("site-talk", document="A long letter."))
    expect(screen.line("14 characters")).to_be_visible()
    model.wait_for_requests(1)
    model.let_go()
    model.wait_for_requests(2)
    expect(screen.line("noted part 1")).to_be_visible()
    return screen


def test_the_whole_story_from_signing_in_to_the_receipt(
    open_page: OpenPage, model: LLMServer, server: Server
) -> None:
    model.hold()
    page = open_page(None)
    page.goto("/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Sign in").click()

    page.locator("main h2").get_by_role("link", name="Talk about a document").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Talk about a document")
    main = page.locator("main#main")
    expect(main.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    page.locator("textarea[data-path=document]").fill("A long letter.")
    main.get_by_role("button", name="Run", exact=True).click()

    screen = RunScreen(page)
    id = screen.id
    expect(screen.heading).to_have_text("Talk about a document")
    screen.expect_status("running", "Running")
    screen.expect_stop_to_be_offered()
    expect(screen.line("14 characters")).to_be_visible()
    expect(screen.in_flight("LLM")).to_contain_text("llama3")
    model.let_go("middle")
    expect(screen.written).to_have_text("The")
    model.let_go()
    expect(screen.line("Nobody saw her again.")).to_be_visible()
    expect(screen.line("noted part 1")).to_be_visible()
    model.wait_for_requests(2)

    screen.stop.click()
    screen.expect_stopping()
    expect(screen.stop_line).to_contain_text(WAITS)
    expect(screen.stop_line).to_contain_text(re.compile(r"llama3, \d+(\.\d)? (ms|s)"))
    run = server.run(id)
    assert run["status"] == "stopping"
    assert [call["tool"] for call in run["in_flight"]] == ["call_llm"]

    model.release()
    screen.expect_status("stopped", "Stopped")
    expect(screen.stop).not_to_be_enabled()
    expect(screen.again).to_be_enabled()
    receipt = screen.panel("Receipt")
    expect(receipt).to_contain_text(re.compile(r"Stopped by demo at \d\d:\d\d:\d\d\."))
    expect(receipt).to_contain_text("after the LLM call in flight had completed.")
    expect(receipt).to_contain_text("Nothing was started after that.")
    result = screen.panel("Result")
    expect(result.get_by_role("heading", name="Notes")).to_be_visible()
    expect(result.get_by_role("listitem")).to_have_text([re.compile("The ship left")] * 2)

    run = server.run(id)
    assert run["stop"]["via"] == "page"
    assert run["stop"]["calls_started_after_acknowledgement"] == 0
    assert model.request_count == 2
    lines = [event["seq"] for event in server.events(id) if event["type"] != "progress"]
    assert screen.seqs(id) == lines


def test_a_reload_while_stopping_and_a_second_tab_say_the_same(
    held: RunScreen, model: LLMServer
) -> None:
    second = RunScreen.of(held.page.context.new_page(), held.id)
    second.expect_stop_to_be_offered()

    held.stop.click()
    expect(second.main).to_have_attribute("data-status", "stopping", timeout=1_000)
    for screen in (held, second):
        screen.expect_stopping()
        expect(screen.stop_line).to_contain_text(WAITS)

    held.page.reload()
    held.expect_stopping()
    expect(held.stop_line).to_contain_text(WAITS)
    assert model.request_count == 2

    model.release()
    for screen in (held, second):
        screen.expect_status("stopped", "Stopped")


def test_a_reload_shows_the_same_as_before(held: RunScreen, model: LLMServer) -> None:
    model.release()
    held.expect_status("success", "Done")
    expect(held.line("Finished")).to_be_visible()
    before = held.lines.all_inner_texts()

    held.page.reload()
    expect(held.line("Finished")).to_be_visible()
    assert held.lines.all_inner_texts() == before


@pytest.mark.parametrize("way", ["no connection", "503"])
def test_a_stop_request_that_fails_rearms_the_button_and_says_so(
    held: RunScreen, model: LLMServer, server: Server, complaints: Complaints, way: str
) -> None:
    def fail(route: Route) -> None:
        if way == "503":
            route.fulfill(status=503, body="the proxy is tired")
        else:
            route.abort("connectionrefused")

    complaints.expect(r"/stop: net::ERR_CONNECTION_REFUSED", r"ERR_CONNECTION_REFUSED.*/stop\)")
    complaints.expect(r"status 503: POST .*/stop", r"status of 503.*/stop\)")
    held.page.route("**/stop", fail)
    held.stop.click()
    expect(held.stop_line).to_contain_text("may not have arrived")
    held.expect_stop_to_be_offered()
    held.expect_status("running", "Running")
    assert server.run(held.id)["stop"] is None

    held.page.unroute("**/stop")
    held.stop.click()
    held.expect_stopping()
    model.release()
    held.expect_status("stopped", "Stopped")


def test_of_two_runs_at_once_only_the_one_that_is_looked_at_stops(
    held: RunScreen, model: LLMServer, server: Server
) -> None:
    other = RunScreen.of(held.page.context.new_page(), server.start("site-loop"))
    other.expect_status("running")
    assert other.id != held.id

    held.stop.click()
    held.expect_stopping()
    other.expect_stop_to_be_offered()
    model.release()
    held.expect_status("stopped")
    other.expect_status("running", "Running")
    other.expect_stop_to_be_offered()
    assert server.run(other.id)["stop"] is None

    other.stop.click()
    other.expect_status("stopped", "Stopped")


def test_a_run_that_ends_by_itself_says_so_and_offers_no_stop(
    page: Page, model: LLMServer, server: Server
) -> None:
    screen = RunScreen.of(page, server.start("site-talk", document="x", parts=1))
    screen.expect_status("success", "Done")
    expect(screen.stop).not_to_be_enabled()
    expect(screen.panel("Result").get_by_role("heading", name="Notes")).to_be_visible()
    expect(screen.panel("Receipt")).not_to_contain_text("Stopped")


def test_an_error_says_what_happened_with_its_traceback_at_hand(
    page: Page, model: LLMServer, server: Server
) -> None:
    screen = RunScreen.of(page, server.start("site-fail"))
    screen.expect_status("error", "Error")
    line = screen.line("ValueError: the answer can't be divided")
    traceback = line.locator("pre", has_text="ZeroDivisionError: division by zero")
    expect(traceback).to_be_hidden()
    line.locator("summary").click()
    expect(traceback).to_be_visible()
    expect(screen.panel("Result")).to_contain_text("the answer can't be divided")


def test_run_again_takes_the_same_input_along(page: Page, model: LLMServer, server: Server) -> None:
    first = server.start("site-talk", document="Read me twice.", parts=1)
    server.until(first, "success")
    screen = RunScreen.of(page, first)
    screen.again.click()
    page.wait_for_url(lambda address: first not in address)
    run_button = page.locator("main#main").get_by_role("button", name="Run", exact=True)
    expect(run_button.or_(screen.log)).to_be_visible()
    if run_button.is_visible():
        run_button.click()
    second = screen.id
    assert second != first
    screen.expect_status("success")
    assert server.run(second)["input"] == server.run(first)["input"]


def test_scripts_that_come_late_count_from_the_same_start(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    id = server.start("site-talk", document="x")
    server.until_it_works(id)
    began_at = datetime.fromisoformat(server.run(id)["started_at"])

    def seconds() -> float:
        return (datetime.now(UTC) - began_at).total_seconds()

    def come_late(route: Route) -> None:
        late_by = seconds() + 3
        eventually(lambda: seconds() > late_by)
        route.continue_()

    page.route("**/run_page.js", come_late)
    screen = RunScreen.of(page, id)
    expect(screen.in_flight("LLM")).to_be_visible()
    shown = page.locator("#running-for").inner_text()
    assert int(shown.removesuffix(" s")) > seconds() - 3
