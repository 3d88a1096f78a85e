"""The run's page beside its log: head, reasons, tabs, values, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import Complaints
from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

SELECTED = "[role=tab][aria-selected=true]"


@pytest.fixture
def held(page: Page, model: LLMServer, server: Server) -> RunScreen:
    """A run whose first model call is held, on the page."""
    model.hold()
    id = server.start("site-talk", document="A long letter.")
    model.wait_for_requests(1)  # before the page: it reads out each status that follows its first
    screen = RunScreen.of(page, id)
    screen.expect_status("running", "Running")
    return screen


@pytest.fixture
def over(page: Page, model: LLMServer, server: Server) -> RunScreen:
    """A run that is done."""
    id = server.start("site-talk", document="A long letter.", parts=1)
    server.until(id, "success")
    return RunScreen.of(page, id)


class TestHead:
    def test_the_windows_title_follows_the_status(self, held: RunScreen, model: LLMServer) -> None:
        expect(held.page).to_have_title("◐ Running · Talk about a document")
        held.stop.click()
        expect(held.page).to_have_title("◐ Stopping... · Talk about a document")
        model.release()
        expect(held.page).to_have_title("■ Stopped · Talk about a document")

    def test_the_end_is_read_out(self, held: RunScreen, model: LLMServer) -> None:
        announcement = held.page.locator("#announcement")
        expect(announcement).to_have_text("")
        held.stop.click()
        held.expect_stopping()
        model.release()
        expect(announcement).to_contain_text("Stopped by demo at")

    def test_durations_tick_and_then_stand_still(self, held: RunScreen, model: LLMServer) -> None:
        ticking = held.page.locator("#running-for")
        before = ticking.inner_text()
        assert re.fullmatch(r"\d+ s", before)
        expect(ticking).not_to_have_text(before)
        model.release()
        held.expect_status("success")
        expect(ticking).to_be_hidden()
        expect(held.page.locator("#took")).to_have_text(re.compile(r"^\d+(\.\d)? s$"))

    def test_usage_counts_along(self, held: RunScreen, model: LLMServer) -> None:
        usage = held.page.locator("#usage")
        expect(usage).to_be_hidden()
        model.let_go()
        expect(usage).to_have_text(re.compile(r"^1 LLM call · .*tokens?$"))

    def test_nothing_moves_when_stop_is_pressed(self, held: RunScreen, model: LLMServer) -> None:
        tops = """() => ["#log", "#details", "#stop", "#again"].map(
            id => Math.round(document.querySelector(id).getBoundingClientRect().top))"""
        lefts = """() => ["#stop", ".edit-link"].map(
            id => Math.round(document.querySelector(id).getBoundingClientRect().left))"""
        before = held.page.evaluate(tops)[0], held.page.evaluate(lefts)
        held.stop.click()
        held.expect_stopping()
        assert (held.page.evaluate(tops)[0], held.page.evaluate(lefts)) == before


class TestReason:
    def test_a_reason_goes_into_the_receipt(self, held: RunScreen, model: LLMServer) -> None:
        held.page.get_by_text("Say why").click()
        held.page.get_by_label("Reason for stopping").fill("wrong document")
        held.stop.click()
        held.expect_stopping()
        model.release()
        held.expect_status("stopped")
        expect(held.page.locator("#receipt-line")).to_contain_text("(reason: wrong document)")

    def test_enter_in_the_reason_stops(self, held: RunScreen, server: Server) -> None:
        held.page.get_by_text("Say why").click()
        held.page.get_by_label("Reason for stopping").fill("enough")
        held.page.keyboard.press("Enter")
        held.expect_stopping()
        assert server.run(held.id)["stop"]["reason"] == "enough"


class TestStopThatFails:
    def test_a_run_that_has_finished_first_is_said_to_have(
        self, held: RunScreen, complaints: Complaints
    ) -> None:
        complaints.expect(r"status 409: POST .*/stop", r"status of 409.*/stop\)")

        def refuse(route: Route) -> None:
            route.fulfill(status=409, json={"code": "run_already_finished", "detail": "over"})

        held.page.route("**/stop", refuse)
        held.stop.click()
        expect(held.stop_line).to_have_text("Nothing was stopped: the run had finished first.")

    def test_too_many_requests_give_the_button_back(
        self, held: RunScreen, complaints: Complaints
    ) -> None:
        complaints.expect(r"status 429: POST .*/stop", r"status of 429.*/stop\)")

        def refuse(route: Route) -> None:
            route.fulfill(status=429, json={"code": "throttled", "detail": "Wait 3 seconds."})

        held.page.route("**/stop", refuse)
        held.stop.click()
        expect(held.stop_line).to_have_text("The stop was not accepted. Wait 3 seconds.")
        held.expect_stop_to_be_offered()

    def test_the_button_stays_pressed_until_the_server_has_answered(
        self, held: RunScreen, model: LLMServer
    ) -> None:
        waiting: list[Route] = []
        held.page.route("**/stop", lambda route: waiting.append(route))
        held.stop.click()
        expect(held.stop).to_be_disabled()
        expect(held.stop).to_contain_text("Stopping...")
        held.expect_status("running", "Running")  # the server knows of no stop yet
        waiting[0].continue_()
        held.expect_stopping()


class TestTabs:
    def test_arrows_home_and_end_move_between_tabs(self, over: RunScreen) -> None:
        page = over.page
        page.get_by_role("tab", name="Result").focus()
        for key, name in [
            ("ArrowRight", "Input"), ("ArrowRight", "Receipt"), ("End", "Events"),
            ("ArrowRight", "Result"), ("ArrowLeft", "Events"), ("Home", "Result"),
        ]:  # fmt: skip
            page.keyboard.press(key)
            expect(page.locator(SELECTED)).to_have_text(name)
            expect(page.locator(SELECTED)).to_be_focused()
            expect(page.get_by_role("tabpanel")).to_have_count(1)

    def test_the_open_tab_stands_in_the_address(self, over: RunScreen) -> None:
        over.panel("Input")
        assert over.page.url.endswith("#input")
        over.page.reload()
        expect(over.page.locator(SELECTED)).to_have_text("Input")
        expect(over.page.locator("#panel-input")).to_contain_text("A long letter.")

    def test_events_come_page_by_page(self, page: Page, model: LLMServer, server: Server) -> None:
        id = server.start("site-flood", lines=250, ask_every=1_000)
        server.until(id, "success")
        panel = RunScreen.of(page, id).panel("Events")
        rows = panel.locator("tbody tr")
        expect(rows).to_have_count(200)
        count = len(server.events(id))
        panel.get_by_role("button", name="Show more").click()
        expect(rows).to_have_count(count)
        expect(panel).to_contain_text(f"{count} of {count}")
        rows.nth(1).locator("summary").click()
        expect(rows.nth(1).locator("pre")).to_be_visible()


class TestValues:
    def test_a_result_shows_raw_and_formatted(self, over: RunScreen) -> None:
        panel = over.panel("Result")
        expect(panel.get_by_role("heading", name="Notes")).to_be_visible()
        panel.get_by_role("button", name="Raw").click()
        expect(panel.get_by_role("heading", name="Notes")).to_be_hidden()
        expect(panel.locator("pre:visible")).to_contain_text("# Notes")
        panel.get_by_role("button", name="Formatted").click()
        expect(panel.get_by_role("heading", name="Notes")).to_be_visible()

    def test_copy_takes_the_raw_text(self, over: RunScreen, server: Server) -> None:
        over.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        panel = over.panel("Result")
        panel.get_by_role("button", name="Copy").click()
        expect(panel.get_by_role("button", name="Copied")).to_be_visible()
        copied = over.page.evaluate("navigator.clipboard.readText()")
        assert copied == server.run(over.id)["result"]

    def test_downloads_are_what_the_run_has(self, over: RunScreen, server: Server) -> None:
        with over.page.expect_download() as download:
            over.panel("Result").get_by_role("link", name="Download").click()
        assert download.value.suggested_filename.endswith("-result.md")
        assert Path(download.value.path()).read_text() == server.run(over.id)["result"]
        with over.page.expect_download() as download:
            over.panel("Events").get_by_role("link", name="Download").click()
        lines = Path(download.value.path()).read_text().splitlines()
        assert len(lines) == len(server.events(over.id))


class TestAgain:
    def test_a_double_click_starts_one_run(self, over: RunScreen, server: Server) -> None:
        first = over.id
        over.again.dblclick()
        over.page.wait_for_url(lambda address: first not in address)
        ids = over.page.evaluate(
            "fetch('/runs?agent=site-talk&page_size=2').then(r => r.json())"
            ".then(page => page.results.map(run => run.id))"
        )
        assert ids == [over.id, first]

    def test_what_keeps_it_from_running_is_said(
        self, over: RunScreen, complaints: Complaints
    ) -> None:
        complaints.expect(r"status 400: POST .*/again", r"status of 400.*/again\)")

        def refuse(route: Route) -> None:
            detail = 'There is no agent "site-talk".'
            route.fulfill(status=400, json={"code": "invalid_input", "detail": detail})

        over.page.route("**/again", refuse)
        over.again.click()
        line = over.page.locator("#again-line")
        expect(line).to_contain_text('There is no agent "site-talk".')
        expect(over.again).to_be_enabled()
