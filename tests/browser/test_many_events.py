"""Five thousand events: all of them are there, and the page still answers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

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


def click_answers(screen: RunScreen, is_enough: Callable[[int], bool]) -> list[float]:
    """Click from tab to tab until ``is_enough(clicks)``; return each answer's milliseconds."""
    page = screen.page
    page.evaluate(_MEASURE_CLICKS)
    for number in itertools.count():
        if is_enough(number):
            break
        box = page.get_by_role("tab", name=("Input", "Receipt")[number % 2]).bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_function("count => window.answers.length > count", arg=number)
    return list(page.evaluate("window.answers"))


def assert_all_lines(screen: RunScreen) -> None:
    expect(screen.lines).to_have_count(LINES + 2, timeout=40_000)
    assert screen.seqs(screen.id) == list(range(1, LINES + 3))


def log_state(page: Page) -> dict[str, Any]:
    return dict(
        page.evaluate(
            """() => { const box = document.querySelector("#log .log-box");
            return { top: box.scrollTop, left: box.scrollHeight - box.scrollTop - box.clientHeight }
            }"""
        )
    )


def test_the_page_answers_while_thousands_of_events_come(page: Page, server: Server) -> None:
    screen = RunScreen.of(page, server.start("site-flood", lines=LINES, pause=0.1))
    expect(screen.line("flood 100").first).to_be_attached()
    answers = click_answers(screen, lambda count: screen.lines.count() > LINES - 500)
    assert len(answers) >= 5, "the flood was over too soon to tell"
    assert statistics.median(answers) < ANSWER_MILLISECONDS, answers
    assert_all_lines(screen)


def test_the_page_answers_with_thousands_of_events_on_it(page: Page, server: Server) -> None:
    id = server.start("site-flood", lines=LINES)
    server.until(id, "success")
    screen = RunScreen.of(page, id)
    assert_all_lines(screen)
    answers = click_answers(screen, lambda count: count == 9)
    assert statistics.median(answers) < ANSWER_MILLISECONDS, answers


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
