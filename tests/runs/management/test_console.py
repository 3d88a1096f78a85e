"""What the terminal shows of a tree of runs: plain lines."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from runs.management.console import Console, printable

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 40
SENTENCE = "In {n} the ship number {n} left harbour {n} at dawn, and {n} people saw her sail. "


def _event(kind: str, run: str = "r", agent: str = "a", **data: Any) -> dict[str, Any]:
    return {
        "run": run,
        "seq": 1,
        "ts": "2024-05-06T14:03:22+00:00",
        "type": kind,
        "agent": agent,
        "depth": 0 if run == "r" else 1,
        "source": "system",
        "data": data,
    }


def _run(event: dict[str, Any], waiting: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a snapshot of the run of an event."""
    run, parent = event["run"], "r" if event["depth"] else None
    snapshot = {"id": run, "agent": event["agent"], "parent": parent}
    return {"type": "run", "run": snapshot, "words": {"waiting": waiting}}


def _take(console: Console, *events: dict[str, Any]) -> None:
    for event in events:
        console.take(_run(event))
        console.take({"type": "trace", "event": event})


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "run": "r", "agent": "a", "call": "1", "text": text}


def _call(kind: str, tool: str, label: str, **data: Any) -> dict[str, Any]:
    return _event(kind, tool=tool, label=label, duration_ms=2300, call="1", **data)


def _shown(*news: dict[str, Any], verbosity: int = 1) -> list[str]:
    stream = io.StringIO()
    console = Console(stream, verbosity=verbosity)
    _take(console, *news)
    console.flush()
    return [line.removeprefix("14:03:22  ") for line in stream.getvalue().splitlines()]


def test_lines_are_grouped_by_agent_and_children_are_indented() -> None:
    lines = _shown(
        _event("log", message="one"),
        _event("log", message="two"),
        _event("log", run="c", agent="b", message="three"),
        _event("log", run="d", agent="b", message="four"),
        _event("log", message="five"),
    )
    assert lines == [
        "▸ a",
        "  one",
        "  two",
        "  ▸ b",
        "    three",
        "  ▸ b (2)",
        "    four",
        "▸ a",
        "  five",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            _call("llm_call", "call_llm", "m", outcome="ok", input_tokens=812, output_tokens=140),
            "LLM  m  2.3 s · 812 in / 140 out",
        ),
        (_call("data_store", "data_store.set", "n/k", outcome="ok"), "stored n/k"),
        (
            _call("data_store", "data_store.get_many", "n", outcome="ok", keys_count=2),
            "looked up 2 keys in n",
        ),
        (_call("http", "http", "GET x", outcome="ok", status=200), "HTTP GET x · 200 · 2.3 s"),
        (
            _call("http", "http", "GET x", outcome="error", error={"type": "E", "message": "gone"}),
            "HTTP GET x · 2.3 s · failed: gone",
        ),
        (
            _call("agent_call", "agents.call", "b", outcome="stopped", status="stopped"),
            "sub-agent b Stopped · 2.3 s",
        ),
        (_event("progress", done=5, total=9, message="parts"), "5 of 9 parts"),
        (_event("progress", done=5, total=None, message=""), "5"),
        (_event("log", level="warning", message="low"), "warning: low"),
        (_event("log", level="info", message={"a": 1}), '{"a": 1}'),
        (_event("stdout", stream="stdout", text="hello"), "> hello"),
        (_event("error", type="ValueError", message="bad"), "ValueError: bad"),
        (_event("stop_requested", mode="graceful"), "asked to stop"),
        (_event("stop_requested", mode="abort"), "asked to stop, and to cut the calls in flight"),
        (
            _event("stop_requested", mode="abort", escalated_at="x", planned=True),
            "asked to cut the calls in flight, as planned",
        ),
        (_event("stop_requested", mode="abandon", escalated_at="x"), "given up"),
        (_event("stop_observed", tool="call_llm", label="m"), "observed the stop at call_llm m"),
        (_event("stop_observed", tool="abort", label=""), "its code was interrupted"),
        (_event("loop_blocked", blocked_ms=517, is_over=False), "blocks the agents' loop: 517 ms"),
        (
            _event("limit_near", limit=60, value=48),
            "it may go on for 12 s, of 1:00",
        ),
        (
            _event(
                "stop_requested",
                via="budget",
                limit={"kind": "wall", "scope": "run", "limit": 60, "value": 60.2},
            ),
            "It reached its deadline of 60 s.",
        ),
        (_event("truncated", max_events=10), "the log is full; what follows is left out"),
        (
            _event("truncated", quota="quota_stored"),
            "its owner has stored too much; what follows is left out",
        ),
        (_event("agent_end", status="stopped"), "■ Stopped"),
        (_event("invented_later"), None),
    ],
)
def test_each_event_in_words(event: dict[str, Any], line: str | None) -> None:
    assert _shown(event) == ([] if line is None else ["▸ a", f"  {line}"])


def test_nothing_that_an_agent_writes_can_steer_the_terminal() -> None:
    evil = "a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\rd"
    news = [
        _event("log", agent=evil, message=evil),
        _event("stdout", agent=evil, text=evil),
        _call("llm_call", "call_llm", evil, outcome="ok", text=evil),
        _event("error", type=evil, message=evil),
    ]
    shown = "\n".join(_shown(*news))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert printable("a\r\nb\tc\x00") == "a\nb\tc\ufffd"


def test_quiet_shows_no_log_and_verbose_shows_tracebacks() -> None:
    error = _event("error", type="E", message="m", traceback="Traceback ...\n  at x")
    assert _shown(error, verbosity=0) == []
    assert _shown(error) == ["▸ a", "  E: m"]
    assert "  Traceback ..." in _shown(error, verbosity=2)


def test_a_stopping_run_says_once_what_it_waits_for() -> None:
    stream = io.StringIO()
    console = Console(stream, verbosity=0)
    words = "Stopping... (after current LLM call completes)"
    waiting = {"text": words, "label": "m", "since": "2024-05-06T14:03:22Z"}
    console.take(_run(_event("agent_start"), waiting))
    console.tick()
    console.take({"type": "activity", "run": "r", "words": {"waiting": {**waiting, "label": "n"}}})
    console.tick()
    assert [line[10:].partition(", ")[0] for line in stream.getvalue().splitlines()] == [
        "▸ a",
        f"  {words} m",
    ]


def test_a_moment_between_two_calls_is_worth_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(stream)
    event = _event("agent_start")
    calling = {"text": "Stopping... (x)", "label": "m", "since": "2024-05-06T14:03:22Z"}
    between = {"text": "Stopping... (before its next call)", "label": "", "since": None}
    console.take(_run(event, calling))
    console.tick()
    console.take(_run(event, between))
    console.tick()
    assert "before its next call" not in stream.getvalue()
    monkeypatch.setattr("runs.management.console.SETTLE_SECONDS", 0.0)
    console.tick()
    assert stream.getvalue().endswith("Stopping... (before its next call)\n")


def test_text_that_comes_before_the_start_of_its_agent_is_shown_after_it() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.take(_run(_event("agent_start")))
    console.take(_text("some words"))
    console.tick()
    assert stream.getvalue() == ""
    call = _call("llm_call", "call_llm", "m", outcome="ok", text="some words")
    _take(console, _event("agent_start", title="A"), call)
    console.flush()
    lines = [line[10:] for line in stream.getvalue().splitlines()]
    assert lines == ["▸ a", "  A", "  │ some words", "  LLM  m  2.3 s"]


def test_lines_of_several_runs_are_in_the_order_of_their_time() -> None:
    later = _event("log", message="later") | {"ts": "2024-05-06T14:03:23+00:00"}
    lines = _shown(later, _event("log", run="c", agent="b", message="sooner"))
    assert [line.removeprefix("14:03:23  ") for line in lines] == [
        "  ▸ b",
        "    sooner",
        "▸ a",
        "  later",
    ]


def test_long_text_comes_in_whole_lines() -> None:
    stream = io.StringIO()
    console = Console(stream)
    words = " ".join(f"word{n}" for n in range(40))
    _take(console, _event("agent_start"))
    for start in range(0, len(words) - 20, 7):  # and the last pieces come too late
        console.take(_text(words[start : start + 7]))
        console.flush()
    assert stream.getvalue().count("│") > 1
    _take(console, _call("llm_call", "call_llm", "m", outcome="ok", text=words))
    console.flush()
    told = [line[14:] for line in stream.getvalue().splitlines() if "│" in line]
    assert " ".join(told) == words
    assert all(len(line) <= 88 for line in told)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07\x9b31m", "\ufffd[2J\ufffd\ufffd31m"),  # ESC, BEL, C1's CSI
        ("a\u202egnp.exe", "a\ufffdgnp.exe"),
        ("\u2066a\u2069\u200f\u200e\u061c\u202b\u202c", "\ufffda" + 6 * "\ufffd"),
        ("a\u2028b\u2029c\x85d", "a\ufffdb\ufffdc\ufffdd"),
        ("a\u200bb\u2060c\ufeffd\u00ade\U000e0041f", "abcdef"),  # invisible
        ("half \ud83d", "half \ufffd"),
        ("שלום مرحبا ä 😀 x\u0301\ttab\nline", "שלום مرحبا ä 😀 x\u0301\ttab\nline"),
    ],
)
def test_what_a_terminal_would_obey_is_made_visible_or_goes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("closed file")])
def test_a_stream_that_breaks_is_left_alone(error: Exception) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    console = Console(Broken())
    console.say("one")
    console.say("two")


def test_a_stream_that_lacks_a_sign_is_left_alone() -> None:
    console = Console(io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True))
    console.say("· ▸ ä")
