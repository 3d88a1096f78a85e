"""Stops, hostile texts, floods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.frames import event, run_frame
from tests.support.log_page import Log, activity, in_flight, llm_call, text
from tests.support.site.watch import HOSTILE, LONG_WORD


def _stop_button(log: Log) -> Locator:
    log.apply(run_frame("kid", "elder", parent="root"))
    return log.header("kid").get_by_role("button", name="Stop elder")


def test_a_called_run_is_stopped_by_its_own_button(log: Log) -> None:
    stop = _stop_button(log)
    stop.click()
    stopping = log.header("kid").get_by_role("button", name="Stopping elder")
    expect(stopping).to_be_disabled()
    expect(stopping).to_have_text("Stopping...")
    assert log.page.evaluate("stops.map((one) => one.id)") == ["kid"]
    log.page.evaluate("stops[0].resolve()")
    waiting = {"text": "Stopping... (after current LLM call completes)"}
    log.apply(run_frame("kid", "elder", "stopping", parent="root", waiting=waiting))
    expect(log.header("kid")).to_contain_text("after current LLM call completes")
    expect(stopping).to_be_disabled()
    log.apply(run_frame("kid", "elder", "stopped", parent="root", ended=4))
    expect(log.header("kid").get_by_role("button")).to_have_count(1)  # only the one that folds
    expect(log.header("kid").locator(".chip")).to_have_text("Stopped")


def test_a_called_run_is_stopped_harder_by_the_same_button(log: Log) -> None:
    def offer(mode: str, label: str, due: int, **more: Any) -> dict[str, Any]:
        at = f"2{due}00-01-01T00:00:00Z"
        return {"mode": mode, "label": label, "hint": "", "effect": "So.", "at": at, **more}

    def show(**words: Any) -> None:
        log.apply(run_frame("kid", "elder", "stopping", parent="root", **words))

    _stop_button(log)
    show(offer=offer("abort", "Stop now", 9, confirm=None))
    expect(log.header("kid").get_by_role("button", name="Stopping elder")).to_be_disabled()
    show(offer=offer("abort", "Stop now", 0, confirm=None))
    now = log.header("kid").get_by_role("button", name="Stop now elder")
    expect(now).to_have_attribute("title", "So.")
    now.click()
    expect(log.header("kid").get_by_role("button", name="Stopping elder")).to_be_disabled()
    show(offer=offer("abort", "Stop now", 0, confirm=None))  # older than the request
    expect(log.header("kid").get_by_role("button", name="Stopping elder")).to_be_disabled()

    confirm = {"question": "Give up?", "yes": "Give up", "no": "Keep waiting"}
    show(offer=offer("abandon", "Give up on it", 0, confirm=confirm))
    give_up = log.header("kid").get_by_role("button", name="Give up on it elder")
    question = log.page.get_by_role("dialog", name="Give up?")
    give_up.click()
    question.get_by_role("button", name="Keep waiting").click()
    expect(give_up).to_be_enabled()
    give_up.click()
    question.get_by_role("button", name="Give up").click()
    expect(log.header("kid").get_by_role("button", name="Stopping elder")).to_be_disabled()
    modes = log.page.evaluate("stops.map(({ id, body }) => [id, body.mode])")
    assert modes == [["kid", "abort"], ["kid", "abandon"]]


def test_a_failed_stop_says_so_and_can_be_repeated(log: Log) -> None:
    stop = _stop_button(log)
    stop.click()
    log.page.evaluate("stops[0].reject(new Error('The server can\\'t be reached.'))")
    expect(stop).to_be_enabled()
    expect(log.header("kid").get_by_role("status")).to_have_text(
        "Not stopped: The server can't be reached."
    )


def test_who_may_not_stop_has_no_button(page: Page) -> None:
    log = Log(page, may_stop=False)
    log.apply(run_frame("root"), run_frame("kid", "elder", parent="root"))
    expect(log.header("kid").locator(".chip")).to_have_text("Running")
    expect(log.header("kid").get_by_role("button")).to_have_count(1)


# Text of others.


def test_long_output_is_folded(log: Log) -> None:
    lines = "".join(f"row {number}\n" for number in range(1, 214))
    log.apply(event("root", 1, "stdout", stream="stdout", text=lines))
    line = log.line("root", 1)
    expect(line).to_contain_text("row 8")
    expect(line).not_to_contain_text("row 213")
    line.get_by_role("button", name="Show all 213 lines").click()
    expect(line).to_contain_text("row 213")
    line.get_by_role("button", name="Show less").click()
    expect(line).not_to_contain_text("row 213")


def _everything_hostile() -> list[dict[str, Any]]:
    return [
        run_frame("root", HOSTILE, usage=HOSTILE),
        run_frame("kid", HOSTILE + LONG_WORD, parent="root", silent=HOSTILE),
        event("root", 1, "log", level=HOSTILE, message=HOSTILE, logger=HOSTILE, traceback=HOSTILE),
        event("root", 2, "log", level="error", message=LONG_WORD),
        event("root", 3, "stdout", stream=HOSTILE, text=HOSTILE),
        event("root", 4, "stdout", stream="stdout", text=LONG_WORD),
        event("root", 5, "error", type=HOSTILE, message=HOSTILE, traceback=HOSTILE),
        llm_call(6, "c", label=HOSTILE, text=HOSTILE + LONG_WORD, tool_calls=[{HOSTILE: HOSTILE}]),
        event("root", 7, "data_store", tool=f"data_store.{HOSTILE}", label=HOSTILE, outcome="ok"),
        event("root", 8, "http", label=LONG_WORD, status=HOSTILE, outcome=HOSTILE),
        event("root", 9, HOSTILE, **{HOSTILE: HOSTILE}),
        event("root", 10, "stop_requested", mode=HOSTILE, requested_by=HOSTILE, reason=HOSTILE),
        event("root", 11, "progress", done=1, total=2, message=HOSTILE + LONG_WORD),
        event("root", 12, "agent_end", status=HOSTILE),
        activity("root", in_flight("x", HOSTILE, HOSTILE), in_flight("y", "http", LONG_WORD)),
        text("y", HOSTILE),
    ]


@pytest.mark.parametrize("phone", [False, True])
def test_hostile_text_stays_text_and_in_its_place(
    open_page: Callable[..., Page], phone: bool
) -> None:
    log = Log(open_page(None, phone=phone))
    log.apply(*_everything_hostile())
    log.settle()
    expect(log.line("root", 12)).to_be_attached()
    assert log.page.title() != "owned"
    inside = log.page.locator(".log")
    assert inside.locator("script, img, svg[onload], iframe, b").count() == 0
    expect(log.line("root", 1).locator("bdi").first).to_have_text(HOSTILE.replace("\x1b[31m", ""))
    assert log.box.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    assert log.page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )


def test_foreign_writing_directions_end_where_the_text_ends(log: Log) -> None:
    log.apply(
        event("root", 1, "log", message=HOSTILE),
        event("root", 2, "stdout", stream="stdout", text=HOSTILE),
        llm_call(3, "c.1", text=HOSTILE),
    )
    expect(log.line("root", 3)).to_be_attached()
    loose = log.page.evaluate(
        """(mark) => {
          const log = document.querySelector(".log");
          const walker = document.createTreeWalker(log, NodeFilter.SHOW_TEXT);
          const loose = [];
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const kind = getComputedStyle(node.parentElement).unicodeBidi;
            const isKept = ["isolate", "plaintext"].includes(kind);
            if (node.data.includes(mark) && !isKept) loose.push(kind);
          }
          return loose;
        }""",
        "\u202e",
    )
    assert loose == []


# Many lines.

_FLOOD = 5_000


def _flood(run: str = "root", count: int = _FLOOD, first: int = 1) -> list[dict[str, Any]]:
    frames = []
    for seq in range(first, first + count):
        if seq % 10 == 0:
            frames.append(llm_call(seq, f"c.{seq}", text=f"Reply {seq}.\nAnd more of it."))
        elif seq % 3 == 0:
            frames.append(event(run, seq, "stdout", stream="stdout", text=f"printed {seq}\n"))
        else:
            frames.append(event(run, seq, "log", level="info", message=f"line {seq}"))
    return frames


_ANSWERS = """
(frames) => new Promise((resolve) => {
  // Click again and again, each time until the first frame after the click was painted, while the
  // frames are drawn; say how often.
  const button = document.querySelector(".group-toggle");
  let count = 0;
  const click = () => setTimeout(() => { // a task of its own, as a click of the reader's hand
    button.click();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        count += 1;
        if (document.querySelectorAll(".line").length < frames.length) click();
        else resolve(count);
      };
      channel.port2.postMessage(null);
    });
  });
  log.apply(frames);
  click();
})
"""


def test_a_click_is_answered_while_thousands_of_events_arrive(log: Log) -> None:
    # Twice the usual: a browser without a screen draws more lines in each of its turns.
    count = log.page.evaluate(_ANSWERS, _flood(count=2 * _FLOOD))
    assert count >= 10, f"the flood was drawn in {count} long turns"


def test_far_away_lines_are_not_drawn(log: Log) -> None:
    log.apply(*_flood(count=1_000))
    expect(log.line("root", 1_000)).to_be_attached(timeout=60_000)
    expect(log.page.locator(".block")).to_have_count(10)
    assert log.line("root", 1).evaluate(
        "(line) => line.checkVisibility() && !line.checkVisibility({ contentVisibilityAuto: true })"
    )


def _distance_from_end(log: Log) -> float:
    distance: float = log.box.evaluate(
        "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
    )
    return distance


def test_the_end_stays_in_sight_unless_the_reader_scrolls_up(log: Log) -> None:
    log.apply(*_flood(count=300))
    log.settle()
    assert _distance_from_end(log) < 2
    jump = log.page.get_by_role("button", name="Jump to the latest")
    expect(jump).to_be_hidden()
    log.box.hover()
    log.page.mouse.wheel(0, -400)
    expect(jump).to_be_visible()
    log.settle()
    seen = log.box.evaluate("(box) => box.scrollTop")
    log.apply(*_flood(count=25, first=301))
    expect(jump).to_have_text("Jump to the latest · 25 new lines")
    log.settle()
    assert log.box.evaluate("(box) => box.scrollTop") == pytest.approx(seen, abs=2)
    jump.click()
    expect(jump).to_be_hidden()
    log.apply(*_flood(count=25, first=326))
    log.settle()
    assert _distance_from_end(log) < 2


def test_what_the_reader_opens_does_not_run_away(log: Log) -> None:
    long = "\n".join(f"row {number}" for number in range(200))
    log.apply(*_flood(count=60), event("root", 61, "stdout", stream="stdout", text=long))
    button = log.page.get_by_role("button", name="Show all 200 lines")
    before = button.bounding_box()
    assert before is not None
    button.click()
    log.settle()
    first = log.line("root", 61).bounding_box()
    assert first is not None
    assert first["y"] + first["height"] > before["y"], "its beginning is where it was"
    expect(log.page.get_by_role("button", name="Jump to the latest")).to_be_visible()


def test_the_log_is_not_read_out(log: Log) -> None:
    expect(log.box).to_have_attribute("aria-live", "off")
    expect(log.box).to_have_attribute("tabindex", "0")
