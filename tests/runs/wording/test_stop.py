"""What a stopping run waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runs.status import STOPPING
from runs.wording.stop import stopping_text, waiting_detail, waiting_for, worker_silent

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def _call(tool: str, label: str = "", started: float = 0) -> dict[str, Any]:
    return {"call": "1", "tool": tool, "label": label, "started_at": _at(started)}


def _stopping(*calls: dict[str, Any], **stop: Any) -> dict[str, Any]:
    stop = {"requested_at": _at(0), "acknowledged_at": _at(0), "observed_at": None, **stop}
    return {"id": "r", "status": STOPPING, "in_flight": list(calls), "stop": stop}


def test_stopping_reads_exactly_as_on_the_page() -> None:
    run = _stopping(_call("call_llm", "llama3"))
    assert stopping_text(run) == "Stopping... (after current LLM call completes)"


def test_the_detail_says_what_and_how_long() -> None:
    run = _stopping(_call("call_llm", "llama3"))
    now = T0 + timedelta(seconds=41)
    assert waiting_detail(run, now) == "llama3, 41 s"


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
        ([_call("thread", "slow (a.py:3)")], "a thread is still running: slow (a.py:3)"),
        ([_call("thread", "a"), _call("thread", "b")], "2 threads are still running"),
        ([_call("task", "poll")], "a task is still running: poll"),
        ([_call("process", "sh")], "a process is still running: sh"),
        (
            [_call("call_llm"), _call("thread", "slow")],
            "after current LLM call completes; a thread is still running: slow",
        ),
    ],
)
def test_what_a_stopping_run_waits_for(calls: list[dict[str, Any]], words: str) -> None:
    assert waiting_for(_stopping(*calls)) == words


def test_work_is_awaited_whenever_it_began_and_named_once() -> None:
    run = _stopping(_call("thread", "slow", started=2), observed_at=_at(1))
    assert stopping_text(run) == "Stopping... (a thread is still running: slow)"
    assert waiting_detail(run, T0 + timedelta(seconds=14)) == "12 s"
    run = _stopping(_call("thread", "old"), _call("thread", "young", started=2))
    assert waiting_detail(run, T0 + timedelta(seconds=12)) == "old, 12 s"


def test_while_calls_are_cut_it_says_so() -> None:
    run = _stopping(_call("call_llm"), _call("http"), mode="abort")
    assert waiting_for(run) == "after current LLM call is cut and current HTTP request is cut"
    run = _stopping(_call("data_store.set"), mode="abort")
    assert waiting_for(run) == "after current data store call completes"


def test_a_sub_agent_is_named_once() -> None:
    run = _stopping(_call("agents.call", "a"))
    assert waiting_for(run) == "after sub-agent a stops"
    assert waiting_detail(run, T0 + timedelta(seconds=2)) == "2.0 s"


def test_the_oldest_of_several_calls_is_the_one_that_is_timed() -> None:
    run = _stopping(_call("call_llm", "young", 5), _call("call_llm", "old", 0))
    assert waiting_detail(run, T0 + timedelta(seconds=10)) == "old, 10 s"


def test_once_observed_it_cleans_up_and_calls_made_for_that_hold_nothing_up() -> None:
    saving = _call("data_store.set", "a/b", started=2)
    assert waiting_for(_stopping(saving, observed_at=_at(1))) == "cleaning up"
    assert waiting_for(_stopping(observed_at=_at(1))) == "cleaning up"


def test_a_parallel_call_is_awaited_also_after_the_stop_was_observed() -> None:
    run = _stopping(_call("call_llm", started=0.5), observed_at=_at(1))
    assert waiting_for(run) == "after current LLM call completes"


def test_a_sub_agent_is_awaited_also_when_the_code_is_over() -> None:
    run = _stopping(_call("agents.wait", "merge-notes", started=2), observed_at=_at(1))
    assert waiting_for(run) == "after sub-agent merge-notes stops"


def test_a_stop_that_nobody_has_taken_up_waits_for_a_worker() -> None:
    run = _stopping(_call("call_llm", "llama3"), acknowledged_at=None)
    assert stopping_text(run) == "Stopping... (waiting for a worker)"
    assert waiting_detail(run, T0) == ""


def test_a_silent_worker() -> None:
    words = "The worker does not answer; its lease ends in 8 s."
    assert worker_silent(8.4) == words
    assert "ends in 1 s" in worker_silent(-3)
