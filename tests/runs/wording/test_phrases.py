"""The words for page, admin and command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runs.status import STOPPING, Status
from runs.wording import phrases

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def _call(tool: str, label: str = "", started: float = 0) -> dict[str, Any]:
    return {"call": "1", "tool": tool, "label": label, "started_at": _at(started)}


def _stopping(*calls: dict[str, Any], **stop: Any) -> dict[str, Any]:
    stop = {"requested_at": _at(0), "acknowledged_at": _at(0), "observed_at": None, **stop}
    return {"id": "r", "status": STOPPING, "in_flight": list(calls), "stop": stop}


# Statuses.


def test_every_status_has_a_look_and_only_an_error_is_red() -> None:
    assert set(phrases.LOOKS) == {*Status, STOPPING}
    assert [name for name, look in phrases.LOOKS.items() if look.tone == "bad"] == ["error"]
    assert all(len(look.sign) == 1 for look in phrases.LOOKS.values())


def test_labels_are_those_of_the_brief() -> None:
    labels = {str(name): str(look.label) for name, look in phrases.LOOKS.items()}
    assert labels == {
        "queued": "Queued",
        "running": "Running",
        "stopping": "Stopping...",
        "stopped": "Stopped",
        "success": "Done",
        "error": "Error",
    }


def test_an_unknown_status_shows_by_its_name() -> None:
    assert phrases.look("paused").label == "paused"


def test_the_stand_in_is_said_to_be_no_model() -> None:
    words = "The answers come from the built-in stand-in, not from a real model."
    assert str(phrases.STAND_IN_NOTE) == words


# Numbers.


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 ms"),
        (0.0129, "12 ms"),
        (0.9999, "999 ms"),
        (3.26, "3.2 s"),
        (9.99, "9.9 s"),
        (41, "41 s"),
        (59.99, "59 s"),
        (102, "1:42"),
        (3723, "1:02:03"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert phrases.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 tokens"),
        (1, "1 token"),
        (812, "812 tokens"),
        (999, "999 tokens"),
        (12_430, "12.4k tokens"),
        (999_999, "999.9k tokens"),
        (1_250_000, "1.2M tokens"),
    ],
)
def test_tokens(count: int, words: str) -> None:
    assert phrases.tokens(count) == words


def test_usage_says_when_it_is_estimated() -> None:
    usage = {"llm_calls": 7, "input_tokens": 12_000, "output_tokens": 400, "estimated": False}
    assert phrases.usage_text(usage) == "7 LLM calls · 12.4k tokens"
    assert phrases.usage_text({**usage, "estimated": True}) == "7 LLM calls · ~12.4k tokens"
    assert phrases.usage_text({**usage, "llm_calls": 1}) == "1 LLM call · 12.4k tokens"
    assert phrases.usage_text({**usage, "llm_calls": 0}) == ""


def test_a_time_of_another_day_has_its_date() -> None:
    assert phrases.clock(_at(0)) == "14:03:22"
    assert phrases.clock(_at(0), now=T0 + timedelta(hours=1)) == "14:03:22"
    assert phrases.clock(_at(0), now=T0 + timedelta(days=1)) == "2024-05-06 14:03:22"


# While stopping.


def test_stopping_reads_exactly_as_on_the_page() -> None:
    run = _stopping(_call("call_llm", "llama3"))
    assert phrases.stopping_text(run) == "Stopping... (after current LLM call completes)"


def test_the_long_form_says_what_and_how_long() -> None:
    run = _stopping(_call("call_llm", "llama3"))
    now = T0 + timedelta(seconds=41)
    assert phrases.waiting_for(run, now) == "after current LLM call completes: llama3, 41 s"
    assert phrases.waiting_detail(run, now) == "llama3, 41 s"


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([_call("data_store.set", "a/b")], "after current data store call completes"),
        ([_call("http", "GET x")], "after current HTTP request completes"),
        ([_call("agents.call", "merge-notes")], "after sub-agent merge-notes stops"),
        ([_call("agents.wait", "merge-notes")], "after sub-agent merge-notes stops"),
        ([_call("agents.start", "merge-notes")], "after sub-agent merge-notes is queued"),
        ([_call("mine.do")], "after current call completes"),
        ([_call("call_llm"), _call("call_llm")], "after 2 current LLM calls complete"),
        ([_call("agents.call", "a"), _call("agents.call", "b")], "after 2 sub-agents stop"),
        (
            [_call("data_store.get"), _call("data_store.set")],
            "after 2 current data store calls complete",
        ),
        (
            [_call("call_llm"), _call("agents.call", "a")],
            "after current LLM call completes and sub-agent a stops",
        ),
        ([], "before its next call"),
    ],
)
def test_what_a_stopping_run_waits_for(calls: list[dict[str, Any]], words: str) -> None:
    assert phrases.waiting_for(_stopping(*calls)) == words


def test_a_sub_agent_is_named_once() -> None:
    run = _stopping(_call("agents.call", "a"))
    assert phrases.waiting_for(run, T0 + timedelta(seconds=2)) == "after sub-agent a stops: 2.0 s"


def test_the_oldest_of_several_calls_is_the_one_that_is_timed() -> None:
    run = _stopping(_call("call_llm", "young", 5), _call("call_llm", "old", 0))
    assert phrases.waiting_detail(run, T0 + timedelta(seconds=10)) == "old, 10 s"


def test_once_observed_it_cleans_up_and_calls_made_for_that_hold_nothing_up() -> None:
    saving = _call("data_store.set", "a/b", started=2)
    assert phrases.waiting_for(_stopping(saving, observed_at=_at(1))) == "cleaning up"
    assert phrases.waiting_for(_stopping(observed_at=_at(1))) == "cleaning up"


def test_a_parallel_call_is_awaited_also_after_the_stop_was_observed() -> None:
    run = _stopping(_call("call_llm", started=0.5), observed_at=_at(1))
    assert phrases.waiting_for(run) == "after current LLM call completes"


def test_a_sub_agent_is_awaited_also_when_the_code_is_over() -> None:
    run = _stopping(_call("agents.wait", "merge-notes", started=2), observed_at=_at(1))
    assert phrases.waiting_for(run) == "after sub-agent merge-notes stops"


def test_a_stop_that_nobody_has_taken_up_waits_for_a_worker() -> None:
    run = _stopping(_call("call_llm", "llama3"), acknowledged_at=None)
    assert phrases.stopping_text(run) == "Stopping... (waiting for a worker)"
    assert phrases.waiting_detail(run, T0) == ""


def test_a_silent_worker() -> None:
    words = "The worker does not answer; its lease ends in 8 s."
    assert phrases.worker_silent(8.4) == words
    assert "ends in 1 s" in phrases.worker_silent(-3)


# The receipt.


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "Alive"),
        ({"draining_at": _at(-60)}, "Draining"),
        ({"heartbeat_at": _at(-6)}, "Alive"),
        ({"heartbeat_at": _at(-8)}, "Silent"),
        ({"heartbeat_at": _at(-60), "draining_at": _at(-60)}, "Silent"),
        ({"heartbeat_at": _at(-60), "draining_at": _at(-60), "lost_at": _at(-1)}, "Gone"),
    ],
)
def test_a_worker_is_as_its_heartbeat_and_its_marks_say(fields: dict[str, str], label: str) -> None:
    worker = {"lost_at": None, "draining_at": None, "heartbeat_at": _at(0), **fields}
    now = datetime.fromisoformat(_at(0))
    assert phrases.worker_look(worker, now=now, renewed_every_seconds=5).label == label


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it is waiting for a worker."),
        (
            {"of": "agent", "taken": 3, "limit": 3},
            "3 of 3 runs of this agent are going on.",
        ),
        (
            {"of": "owner", "taken": 2, "limit": 1},
            "2 of 1 runs of this owner are going on.",
        ),
    ],
)
def test_what_a_queued_run_waits_for(given: Any, said: str) -> None:
    assert phrases.queued_text(**given) == said
