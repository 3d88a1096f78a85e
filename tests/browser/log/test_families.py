"""Families of runs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.frames import event, run_frame
from tests.support.log_page import Log, activity, in_flight, llm_call, text


def _family() -> dict[str, list[dict[str, Any]]]:
    """Return a family's frames, each run's in order: whose come first is not said."""
    return {
        "root": [
            run_frame("root", "teller"),
            event("root", 1, "agent_start", 0),
            event("root", 2, "log", 1, message="before"),
            event("root", 3, "log", 3, message="between"),
            event("root", 4, "agent_call", 6, label="elder", run="elder", outcome="ok"),
            event("root", 5, "log", 9, message="after"),
        ],
        "elder": [
            run_frame("elder", "elder", "success", parent="root", began=2, ended=6),
            event("elder", 1, "agent_start", 2),
            event("elder", 2, "agent_end", 6, status="success"),
        ],
        "younger": [
            run_frame("younger", "younger", parent="root", began=4),
            event("younger", 1, "agent_start", 4),
        ],
        "grandchild": [
            run_frame("grandchild", "grandchild", parent="younger", began=5),
            event("grandchild", 1, "agent_start", 5),
        ],
    }


_FAMILY_ORDER = [
    *("+root", "root/1", "root/2", "+elder", "elder/1", "elder/2", "root/3"),
    *("+younger", "younger/1", "+grandchild", "grandchild/1", "root/5"),
]


@pytest.mark.parametrize("seed", range(12))
def test_a_run_stands_where_it_began_in_whatever_order_it_is_told(page: Page, seed: int) -> None:
    family = _family()
    some = random.Random(seed)
    frames = []
    while left := [run for run, its_frames in family.items() if its_frames]:
        frames.append(family[some.choice(left)].pop(0))
    log = Log(page)
    for frame in frames:
        log.apply(frame)
    log.settle()
    assert log.order() == _FAMILY_ORDER


def test_a_group_says_how_its_run_stands(log: Log) -> None:
    usage = "7 LLM calls · 12.4k tokens"
    log.apply(run_frame("kid", "elder", "error", parent="root", began=2, ended=5.25, usage=usage))
    header = log.header("kid")
    expect(header.locator(".chip")).to_have_text("Error")
    expect(header).to_contain_text("3.2 s")
    expect(header).to_contain_text(usage)
    expect(header.get_by_role("link", name="Open elder")).to_have_attribute(
        "href", "/app/runs/kid/"
    )


def test_a_group_folds_and_unfolds_by_keyboard(log: Log) -> None:
    log.apply(run_frame("kid", "elder", parent="root"), event("kid", 1, "agent_start"))
    toggle = log.header("kid").get_by_role("button", name="elder", exact=True)
    expect(toggle).to_have_attribute("aria-expanded", "true")
    toggle.press("Enter")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    expect(log.line("kid", 1)).to_be_hidden()
    toggle.press("Space")
    expect(log.line("kid", 1)).to_be_visible()


def test_progress_is_one_bar_and_no_lines(log: Log) -> None:
    for done in (1, 5):
        log.apply(event("root", done, "progress", done=done, total=9, message="reading"))
    bar = log.header("root").get_by_role("progressbar", name="reading")
    expect(bar).to_have_attribute("value", "5")
    expect(log.header("root")).to_contain_text("reading 5 of 9")
    expect(log.page.locator(".line")).to_have_count(0)
    log.apply(run_frame("root", status="stopped", ended=7))
    expect(bar).to_be_visible()  # how far it came
    log.apply(run_frame("root", status="success", ended=7))
    expect(bar).to_be_hidden()


def test_a_run_that_is_over_takes_what_was_live_with_it(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1")))
    expect(log.live).to_have_count(1)
    log.apply(run_frame("root", status="error", ended=3), activity("root", in_flight("c.1")))
    expect(log.live).to_have_count(0)


# What is going on.


def test_a_call_in_flight_is_shown_until_its_line_takes_its_place(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1"), in_flight("c.2", "http", "GET example.org")))
    expect(log.live).to_have_count(2)
    expect(log.live.first).to_contain_text("llama3 ·")
    log.apply(llm_call(1, "c.1"))
    expect(log.live).to_have_count(1)
    expect(log.live).to_contain_text("GET example.org")
    log.apply(activity("root", in_flight("c.1")))  # old news
    expect(log.live).to_have_count(0)


def test_a_snapshot_says_what_is_in_flight(log: Log) -> None:
    snapshot = run_frame("root")
    snapshot["run"]["in_flight"] = [in_flight("c.1", "data_store.set", "notes/part-1")]
    log.apply(snapshot)
    expect(log.live).to_contain_text("storing notes/part-1")
    log.apply(run_frame("root"))
    expect(log.live).to_have_count(0)


def test_the_call_of_a_run_that_is_shown_has_no_row_of_its_own(log: Log) -> None:
    calls = [in_flight("c.1", "agents.call", "elder"), in_flight("c.2", "agents.call", "elder")]
    log.apply(activity("root", *calls))
    expect(log.live).to_have_count(2)
    log.apply(run_frame("kid", "elder", parent="root"))
    expect(log.live).to_have_count(1)


def test_a_started_run_that_is_shown_has_neither_row_nor_lines_of_its_own(log: Log) -> None:
    begun = {"tool": "agents.start", "label": "elder", "run": "kid", "outcome": "ok"}
    log.apply(activity("root", in_flight("c.1", "agents.start", "elder")))
    expect(log.live).to_contain_text("starting elder")
    log.apply(event("root", 1, "agent_call", call="c.1", **begun))
    log.apply(activity("root", in_flight("c.2", "agents.wait", "elder")))
    expect(log.live).to_have_count(1)
    expect(log.line("root", 1)).to_contain_text("started")
    log.apply(run_frame("kid", "elder", parent="root"))
    expect(log.live).to_have_count(0)
    expect(log.line("root", 1)).to_have_count(0)


def test_of_a_started_run_that_is_not_shown_the_last_line_stays(log: Log) -> None:
    data = {"label": "elder", "run": "kid", "outcome": "ok"}
    log.apply(event("root", 1, "agent_call", tool="agents.start", **data))
    log.apply(event("root", 2, "agent_call", tool="agents.wait", duration_ms=4, **data))
    expect(log.line("root", 1)).to_have_count(0)
    expect(log.line("root", 2)).to_contain_text("elder · 4 ms")


def test_text_grows_as_it_is_written_and_goes_when_the_reply_is_there(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1")), text("c.1", "The second "))
    log.apply(text("c.1", "chapter"))
    expect(log.live).to_contain_text("writing...")
    expect(log.live.locator("pre")).to_have_text("The second chapter")
    log.apply(llm_call(1, "c.1", text="The second chapter."), text("c.1", " again"))
    expect(log.line("root", 1)).to_contain_text("The second chapter.")
    expect(log.live).to_have_count(0)


def test_text_begins_anew_after_a_lost_connection(log: Log) -> None:
    log.apply(activity("root", in_flight("c.1")), text("c.1", "The sec"))
    expect(log.live.locator("pre")).to_have_text("The sec")
    log.page.evaluate("log.reconnected()")
    log.apply(text("c.1", "The second chapter"))
    expect(log.live.locator("pre")).to_have_text("The second chapter")


# Stopping a called run.
