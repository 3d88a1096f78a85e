"""Somebody pressed Stop, waits, and is offered more: a cut, and then to give up.

Here the offers come after one second instead of five. ``tests/runs/wording/test_ladder.py`` has all
that they may say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

from .test_accessibility import assert_accessible, tab_to
from .test_phone import assert_fits

OpenPage = Callable[..., Page]
GIVE_UP = "Giving up ends the run now"


@pytest.fixture
def wake(tmp_path: Path) -> Iterator[Path]:
    """The file that ends the code of an agent that nothing else ends."""
    wake = tmp_path / "wake"
    yield wake
    wake.touch()


def test_stop_now_is_offered_in_every_tab_after_a_reload_too_and_cuts_the_call(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold("middle")
    screen = RunScreen.of(page, server.start("site-talk", document="A long letter."))
    expect(screen.written).to_have_text("The")
    second = RunScreen.of(page.context.new_page(), screen.id)
    aborted = model.aborted_count
    expect(screen.harder).to_be_hidden()

    screen.stop.click()
    for one in (screen, second):
        one.expect_offer("Stop now (cuts the call in flight)", "kept as far as it has come")
    page.reload()
    screen.expect_offer("Stop now (cuts the call in flight)", "kept as far as it has come")
    assert_accessible(page, "main")
    assert model.aborted_count == aborted, "nothing was cut yet"

    tab_to(page, screen.harder)
    page.keyboard.press("Enter")
    model.wait(lambda: model.aborted_count == aborted + 1, "the connection is closed")
    for one in (screen, second):
        one.expect_status("stopped", "Stopped")
        expect(one.harder).to_be_hidden()
        expect(one.line("cut off")).to_contain_text("LLM")
        expect(one.line("From here on calls in flight are cut, asked for by demo")).to_be_visible()
    expect(screen.stop_line).to_be_focused()
    expect(screen.panel("Receipt")).to_contain_text("Cut 1 call. Nothing was started after that.")
    stop = server.run(screen.id)["stop"]
    assert (stop["mode"], stop["escalated_by"], stop["calls_cut"]) == ("abort", "demo", 1)


def test_giving_up_on_a_phone_asks_first_and_says_when_the_code_has_ended(
    phone: Page, server: Server, wake: Path
) -> None:
    screen = RunScreen.of(phone, server.start("site-asleep-in-def", path=str(wake)))
    expect(screen.line("asleep")).to_be_visible()
    server.client.post(f"/runs/{screen.id}/stop", json={"mode": "abort", "abandon_after": 600})
    screen.expect_offer("Give up on it", GIVE_UP)
    expect(screen.stop_plan).to_have_text(re.compile(r"^Gives up by itself in 9:[345]\d\.$"))
    expect(screen.harder).to_be_in_viewport(ratio=1)
    assert_fits(phone)

    screen.harder.tap()
    expect(screen.question).to_contain_text("Give up on this run?")
    expect(screen.question).to_contain_text(GIVE_UP)
    expect(screen.question.get_by_role("button", name="Keep waiting")).to_be_focused()
    assert_accessible(phone, "dialog")
    phone.keyboard.press("Escape")
    expect(screen.question).to_have_count(0)
    screen.expect_offer("Give up on it", GIVE_UP)
    assert server.run(screen.id)["status"] == "stopping"

    screen.harder.tap()
    screen.question.get_by_role("button", name="Give up on it").tap()
    screen.expect_status("stopped", "Stopped")
    receipt = phone.locator("#receipt-line")
    expect(receipt).to_contain_text("may still run")
    expect(receipt).to_contain_text("it can store nothing")
    assert_fits(phone)
    wake.touch()
    expect(receipt).to_contain_text(re.compile("Left behind: .*; it ended .* after the run"))
    expect(receipt).not_to_contain_text("may still run")


@pytest.mark.thorough
def test_the_lists_offer_the_same(
    open_page: OpenPage, model: LLMServer, server: Server, wake: Path
) -> None:
    """Stop now in the reader's list, Give up in the operator's."""
    model.hold()
    talk = server.start("site-talk", document="x")
    asleep = server.start("site-asleep-in-def", path=str(wake))
    model.wait_for_requests(1)
    server.until_it_works(asleep)
    page, desk = open_page(), open_page("admin")
    page.goto("/app/runs/")
    row = page.locator(f'#runs tr[data-run="{talk}"]')
    row.get_by_role("button", name="Stop Talk").click()
    expect(row.get_by_role("button", name="Stopping... Talk")).to_be_disabled()
    now = row.get_by_role("button", name="Stop now Talk")
    expect(now).to_have_attribute("title", re.compile("^cuts the call in flight. The reply is"))
    held: list[Route] = []
    page.route("**/stop", lambda route: held.append(route))
    now.click()
    expect(row.get_by_role("button", name="Stopping... Talk")).to_be_disabled()
    held[0].continue_()
    expect(row).to_have_attribute("data-status", "stopped")
    assert server.run(talk)["stop"]["calls_cut"] == 1

    server.client.post(f"/runs/{asleep}/stop", json={"mode": "abort"})
    desk.goto("/admin/runs/runrecord/")
    mark = f"[data-run='{asleep}']"
    line = desk.locator("#result_list tbody tr", has=desk.locator(mark))
    line.get_by_role("button", name="Give up on it site-asleep-in-def").click()
    question = desk.get_by_role("dialog")
    expect(question).to_contain_text(GIVE_UP)
    assert_accessible(desk, "dialog")
    question.get_by_role("button", name="Give up on it").click()
    expect(line.locator("[data-status]")).to_have_attribute("data-status", "stopped")
    stop = server.run(asleep)["stop"]
    assert (stop["escalated_by"], stop["abandoned"]) == ("admin", True)

    desk.goto(f"/admin/runs/runrecord/{asleep}/change/")
    receipt = desk.locator("#panel-receipt")
    expect(receipt).to_contain_text("may still run")
    wake.touch()
    expect(receipt).to_contain_text("Left behind: ")
