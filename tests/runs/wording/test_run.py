"""What people read about a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from runs.wording.run import STAND_IN_NOTE, present, queued_text, tokens, usage_text

AT = "2026-03-01T12:00:00+00:00"
NOW = datetime(2026, 3, 1, 12, 0, 41, tzinfo=UTC)


def run(status: str, **changes: Any) -> dict[str, Any]:
    stop = {
        "mode": "graceful",
        "reason": "enough",
        "via": "page",
        "requested_by": "demo",
        "requested_at": AT,
        "escalated_by": None,
        "escalated_at": None,
        "acknowledged_at": AT,
        "observed_at": None,
        "finished_first": False,
        "calls_started_after_acknowledgement": 0,
        "root_request": "r",
        "abandoned": False,
        "cleanup_error": None,
    }
    usage = {"llm_calls": 2, "input_tokens": 900, "output_tokens": 100, "estimated": False}
    return {
        "id": "r",
        "status": status,
        "started_at": AT,
        "partial_result": None,
        "in_flight": [],
        "usage": usage,
        "usage_tree": usage,
        "stop": None if status in {"queued", "running", "success"} else stop,
        **changes,
    }


CALL = {"call": "r.1", "tool": "call_llm", "label": "llama3", "started_at": AT}


def test_a_run_that_nobody_wants_stopped() -> None:
    assert present(run("running")) == {
        "status": {"label": "Running", "tone": "active"},
        "waiting": None,
        "silent": None,
        "offer": None,
        "planned": [],
        "is_left_running": False,
        "log_removed": None,
        "receipt": [],
        "usage": "2 LLM calls · 1k tokens",
        "usage_tree": "",
    }


def test_what_the_runs_below_have_used_is_said_with_its_own() -> None:
    tree = {"llm_calls": 3, "input_tokens": 5_900, "output_tokens": 100, "estimated": True}
    said = present(run("running", usage_tree=tree))
    assert said["usage"] == "2 LLM calls · 1k tokens"
    assert said["usage_tree"] == "with sub-agents: 3 LLM calls · ~6k tokens"


def test_while_stopping_it_says_what_it_waits_for_and_since_when() -> None:
    words = present(run("stopping", in_flight=[CALL]), now=NOW)
    assert words["status"] == {"label": "Stopping...", "tone": "muted"}
    assert words["waiting"] == {
        "text": "Stopping... (after current LLM call completes)",
        "label": "llama3",
        "since": AT,
    }
    assert words["receipt"][-1] == "Stopping... (after current LLM call completes)."


def test_a_called_agent_is_not_named_twice() -> None:
    call = {**CALL, "tool": "agents.call", "label": "merge_notes"}
    waiting = present(run("stopping", in_flight=[call]))["waiting"]
    assert waiting == {
        "text": "Stopping... (after sub-agent merge_notes stops)",
        "label": "",
        "since": AT,
    }


def test_a_worker_that_does_not_answer_is_told_of_only_while_stopping() -> None:
    assert present(run("running"), lease_seconds=8)["silent"] is None
    silent = present(run("stopping"), lease_seconds=8.4)["silent"]
    assert silent == "The worker does not answer; its lease ends in 8 s."


@pytest.mark.parametrize(
    ("zone", "clock"), [("", "12:00:00"), ("Asia/Kolkata", "17:30:00"), ("No/Such", "12:00:00")]
)
def test_instants_are_in_the_readers_time_zone(zone: str, clock: str) -> None:
    receipt = present(run("stopped", stop_observed=None), zone=zone, now=NOW)["receipt"]
    assert receipt[0] == f"Stopped by demo at {clock} (reason: enough)."


def test_a_log_that_was_removed_is_said_to_be_gone() -> None:
    gone = run("success") | {"log_removed_at": "2026-03-04T23:30:00+00:00"}
    assert present(gone)["log_removed"] == "The log was removed on March 4, 2026."
    assert (
        present(gone, zone="Asia/Tokyo")["log_removed"] == "The log was removed on March 5, 2026."
    )


def test_the_stand_in_is_said_to_be_no_model() -> None:
    words = "The answers come from the built-in stand-in, not from a real model."
    assert str(STAND_IN_NOTE) == words


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
    assert tokens(count) == words


def test_usage_says_when_it_is_estimated() -> None:
    usage = {"llm_calls": 7, "input_tokens": 12_000, "output_tokens": 400, "estimated": False}
    assert usage_text(usage) == "7 LLM calls · 12.4k tokens"
    assert usage_text({**usage, "estimated": True}) == "7 LLM calls · ~12.4k tokens"
    assert usage_text({**usage, "llm_calls": 1}) == "1 LLM call · 12.4k tokens"
    assert usage_text({**usage, "llm_calls": 0}) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it is waiting for a worker."),
        (
            {"of": "agent", "taken": 3, "limit": 3},
            "3 of 3 runs of this agent are running.",
        ),
        (
            {"of": "owner", "taken": 2, "limit": 1},
            "2 of 1 runs of this owner are running.",
        ),
    ],
)
def test_what_a_queued_run_waits_for(given: Any, said: str) -> None:
    assert queued_text(**given) == said
