"""Five thousand events: all of them are there, and the page still answers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

LINES = 5_000
ANSWER_MILLISECONDS = 100

#: From the moment of the click (of the input event itself, so that waiting behind other work
#: counts) until what it changed is painted.
_MEASURE_CLICKS = """() => {
    window.answers = [];
    document.addEventListener("click", event => {
        requestAnimationFrame(() => {
            const painted = new MessageChannel();
            painted.port1.onmessage = () => {
                window.answers.push(performance.now() - event.timeStamp);
                painted.port1.close();
            };
            painted.port2.postMessage(null);
        });
    }, { capture: true });
}"""


def click(page: Page, target: Locator) -> float:
    """Click with the mouse, and return how many milliseconds the answer took."""
    box = target.bounding_box()
    assert box
    count = page.evaluate("window.answers.length")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("count => window.answers.length > count", arg=count)
    return float(page.evaluate("window.answers.at(-1)"))


@pytest.fixture
def idle_milliseconds(open_page: Callable[..., Page]) -> float:
    """How long this machine, as busy as it is with other things, takes on a page that is idle."""
    page = open_page(None)
    page.goto("/accounts/login/")
    page.evaluate(_MEASURE_CLICKS)
    return statistics.median(click(page, page.locator("h1")) for _ in range(5))


def assert_quick(answers: list[float], idle_milliseconds: float) -> None:
    taken = statistics.median(answers) - idle_milliseconds
    assert taken < ANSWER_MILLISECONDS, f"{answers}, and {idle_milliseconds} where nothing happens"


def assert_all_lines(screen: RunScreen, server: Server) -> None:
    """Check that each event has its line, once and in order."""
    expect(screen.line(re.compile(r"flood \d+$"))).to_have_count(LINES)
    last_seq = server.run(screen.id)["last_seq"]
    assert screen.seqs(screen.id) == list(range(1, last_seq + 1))


def log_state(page: Page) -> dict[str, Any]:
    return dict(
        page.evaluate(
            """() => { const box = document.querySelector("#log .log-box");
            return { top: box.scrollTop, left: box.scrollHeight - box.scrollTop - box.clientHeight }
            }"""
        )
    )


@pytest.mark.thorough
def test_the_page_answers_while_thousands_of_events_come(
    page: Page, model: LLMServer, server: Server, idle_milliseconds: float
) -> None:
    model.hold()
    screen = RunScreen.of(page, server.start("site-flood", lines=LINES, ask_every=1_000))
    page.evaluate(_MEASURE_CLICKS)
    answers = []
    for number in range(1, LINES // 1_000 + 1):
        model.wait_for_requests(number)
        model.let_go()  # and a thousand lines come
        for name in ("Input", "Receipt"):
            answers.append(click(page, page.get_by_role("tab", name=name)))
    assert_quick(answers, idle_milliseconds)
    expect(screen.line("Finished")).to_be_attached()
    assert_all_lines(screen, server)


@pytest.mark.thorough
def test_the_page_answers_with_thousands_of_events_on_it(
    page: Page, server: Server, idle_milliseconds: float
) -> None:
    id = server.start("site-flood", lines=LINES)
    server.until(id, "success")
    screen = RunScreen.of(page, id)
    expect(screen.line("Finished")).to_be_attached()
    assert_all_lines(screen, server)
    page.evaluate(_MEASURE_CLICKS)
    tabs = [page.get_by_role("tab", name=name) for name in ("Input", "Receipt", "Events") * 3]
    assert_quick([click(page, tab) for tab in tabs], idle_milliseconds)


def test_the_log_follows_its_end_until_the_reader_scrolls_up(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    screen = RunScreen.of(page, server.start("site-flood", lines=1_000, ask_every=500))
    expect(screen.line("flood 500")).to_be_in_viewport()
    assert log_state(page)["left"] < 30

    screen.log.locator(".log-box").hover()
    page.mouse.wheel(0, -600)
    jump = screen.log.get_by_role("button", name="Jump to the latest")
    expect(jump).to_be_visible()
    top = log_state(page)["top"]
    model.release()
    expect(screen.line("flood 1000")).to_be_attached()
    assert abs(log_state(page)["top"] - top) < 30
    assert log_state(page)["left"] > 600

    jump.click()
    expect(jump).to_be_hidden()
    expect(screen.line("Finished")).to_be_in_viewport()


@pytest.mark.parametrize("state", ["live", "over"])
def test_long_output_is_folded_until_it_is_wanted(page: Page, server: Server, state: str) -> None:
    id = server.start("site-printer", lines=400)
    if state == "over":
        server.until(id, "success")
    screen = RunScreen.of(page, id)
    output = screen.line("line 1 of 400")
    expect(output).not_to_contain_text("line 300 of 400")
    output.get_by_role("button", name="Show all").click()
    expect(output).to_contain_text("line 300 of 400")
    output.get_by_role("button", name="Show less").click()
    expect(output).not_to_contain_text("line 300 of 400")
