"""Lines of the log."""

from __future__ import annotations

import random
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from runs.wording.time import duration
from tests.support.frames import event, run_frame
from tests.support.log_page import Log, llm_call

# Words.


def test_a_call_to_a_model_says_its_time_and_its_tokens(log: Log) -> None:
    log.apply(llm_call(1, "c.1", text="First line.\nSecond line."))
    line = log.line("root", 1)
    expect(line).to_contain_text("LLM")
    expect(line).to_contain_text("llama3 · 2.3 s · 812 in / 140 out")
    expect(line.get_by_text("First line.").first).to_be_visible()
    expect(line.get_by_text("Second line.")).to_be_hidden()
    line.locator("summary").press("Enter")
    expect(line.get_by_text("Second line.")).to_be_visible()


@pytest.mark.parametrize(
    ("outcome", "word"), [("error", "failed"), ("stopped", "stopped"), ("aborted", "cut off")]
)
def test_a_call_that_did_not_go_well_says_so_in_a_word(log: Log, outcome: str, word: str) -> None:
    error = {"type": "RateLimited", "message": "too much"}
    log.apply(llm_call(1, "c.1", outcome=outcome, error=error if outcome == "error" else None))
    expect(log.line("root", 1)).to_contain_text(word)
    if outcome == "error":
        expect(log.line("root", 1)).to_contain_text("RateLimited: too much")


_SAID: list[tuple[str, dict[str, Any], str]] = [
    ("agent_start", {}, "Started"),
    (
        "data_store",
        {"tool": "data_store.set", "label": "notes/part-1", "duration_ms": 2, "outcome": "ok"},
        "stored notes/part-1",
    ),
    (
        "data_store",
        {
            "tool": "data_store.get_many",
            "label": "notes",
            "keys_count": 1,
            "duration_ms": 230,
            "outcome": "ok",
        },
        "read 1 key in notes · 230 ms",
    ),
    (
        "http",
        {"label": "GET example.org", "status": 200, "duration_ms": 120.9, "outcome": "ok"},
        "GET example.org · 200 · 120 ms",
    ),
    ("agent_call", {"label": "nobody", "duration_ms": 1, "outcome": "error"}, "nobody · 1 ms"),
    (
        "agent_call",
        {"tool": "agents.start", "label": "nobody", "duration_ms": 9, "outcome": "ok"},
        "nobody · started",
    ),
    (
        "agent_call",
        {"tool": "agents.wait", "label": "nobody", "duration_ms": 9, "outcome": "ok"},
        "nobody · 9 ms",
    ),
    ("log", {"level": "warning", "message": "careful", "logger": "x.y"}, "Warning"),
    ("log", {"level": "error", "message": {"not": "text"}}, '"not": "text"'),
    ("error", {"type": "ValueError", "message": "no", "traceback": "at x"}, "ValueError: no"),
    ("loop_blocked", {"blocked_ms": 2000, "is_over": True, "where": ["a.py:1 in f"]}, "for 2.0 s"),
    (
        "limit_near",
        {"kind": "wall", "scope": "run", "limit": 60, "value": 48},
        "It may go on for 12 s, of 1:00",
    ),
    ("truncated", {"max_events": 10000}, "after 10000 events"),
    ("truncated", {"quota": "quota_stored"}, "Its owner has stored too much"),
    (
        "stop_requested",
        {"mode": "graceful", "via": "page", "requested_by": "demo", "reason": "wrong document"},
        "Stop asked for by demo: wrong document",
    ),
    (
        "stop_requested",
        {"mode": "abort", "via": "parent", "requested_by": "demo", "reason": ""},
        "Stop asked for by demo, with the run that called it, cutting the calls in flight",
    ),
    (
        "stop_requested",
        {"mode": "abort", "escalated_at": "x", "escalated_by": "admin", "planned": False},
        "From here on calls in flight are cut, asked for by admin",
    ),
    (
        "stop_requested",
        {"mode": "abandon", "escalated_at": "x", "escalated_by": None, "planned": True},
        "Given up, as planned",
    ),
    ("stop_requested", {"mode": "abandon", "requested_by": "demo"}, "Given up by demo"),
    (
        "stop_requested",
        {
            "mode": "graceful",
            "via": "budget",
            "limit": {"kind": "wall", "scope": "run", "limit": 60, "value": 60.2},
        },
        "It reached its deadline of 60 s",
    ),
    (
        "stop_requested",
        {"via": "budget", "limit": {"kind": "idle", "scope": "run", "limit": 2.5, "value": 2.6}},
        "It showed no sign of life for 2.5 s",
    ),
    ("stop_observed", {"tool": "call_llm", "label": "llama3"}, "the next LLM call was not made"),
    ("stop_observed", {"tool": "agents.start", "label": "x"}, "the next agent was not started: x"),
    ("stop_observed", {"tool": "agents.wait", "label": "x"}, "while it waited for an agent: x"),
    ("stop_observed", {"tool": "", "label": ""}, "the agent has noticed it"),
    ("agent_end", {"status": "stopped", "events_dropped": 3}, "Stopped · 3 events were left out"),
    ("something_new", {"a": 1}, "something_new"),
]


@pytest.mark.parametrize(("type", "data", "words"), _SAID)
def test_every_event_is_said_in_words(
    log: Log, type: str, data: dict[str, Any], words: str
) -> None:
    log.apply(event("root", 1, type, **data))
    expect(log.line("root", 1)).to_contain_text(words)


def test_what_nobody_knows_is_shown_with_all_it_brings(log: Log) -> None:
    log.apply(event("root", 1, "something_new", colour="blue"))
    expect(log.line("root", 1).get_by_text("blue")).to_be_hidden()
    log.line("root", 1).get_by_text("Details").click()
    expect(log.line("root", 1)).to_contain_text('"colour": "blue"')


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("call_llm", "Stop took effect at an LLM call: x"),
        ("http", "Stop took effect at an HTTP request: x"),
        ("abort", "Stop took effect: its code was interrupted"),
        ("agents.wait", "Stop took effect while it waited for an agent: x"),
    ],
)
def test_a_cut_does_not_say_that_the_next_call_was_not_made(
    log: Log, tool: str, words: str
) -> None:
    log.apply(
        event("root", 1, "stop_requested", mode="graceful"),
        event("root", 2, "stop_requested", mode="abort", escalated_at="x"),
        event("root", 3, "stop_observed", tool=tool, label="x"),
    )
    expect(log.line("root", 3)).to_contain_text(words)


def test_a_second_attempt_says_that_it_is_one(log: Log) -> None:
    log.apply(event("root", 1, "agent_start"), event("root", 2, "agent_start"))
    expect(log.line("root", 2)).to_contain_text("Started again (attempt 2)")


def test_times_are_those_of_the_reader(log: Log) -> None:
    log.apply(event("root", 1, "log", 62, message="x"))
    expect(log.line("root", 1).locator("time")).to_have_text("17:31:02")  # Kolkata


def test_durations_are_written_as_the_server_writes_them(page: Page) -> None:
    some = random.Random(1)
    seconds = [0, 0.0004, 0.9999, 1, 1.05, 9.99, 9.999, 10, 59.999, 60, 61.5, 3599.9, 3600, 90061]
    seconds += [some.uniform(0, limit) for limit in (1, 10, 60, 3600, 1e6) for _ in range(200)]
    page.goto("/accounts/login/")
    written = page.evaluate(
        """async (all) => {
          const { duration } = await import("/static/runs/js/format.js");
          return all.map(duration);
        }""",
        seconds,
    )
    assert written == [duration(one) for one in seconds]


def test_an_empty_log_says_what_it_waits_for(page: Page) -> None:
    log = Log(page)
    empty = log.group("root").locator(".group-empty")
    log.apply(run_frame("root", status="queued"))
    expect(empty).to_have_text("Waiting for a worker.")
    log.apply(run_frame("root", status="running"))
    expect(empty).to_have_text("Nothing has happened yet.")
    log.apply(event("root", 1, "agent_start"))
    expect(empty).to_be_hidden()


# The tree.
