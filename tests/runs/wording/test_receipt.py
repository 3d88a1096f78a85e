"""The receipt of a stop in sentences, for page, admin and command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runs.status import STOPPING
from runs.wording.receipt import calls_waited_for, sentences

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def _call(tool: str, label: str = "", started: float = 0) -> dict[str, Any]:
    return {"call": "1", "tool": tool, "label": label, "started_at": _at(started)}


def _stopping(*calls: dict[str, Any], **stop: Any) -> dict[str, Any]:
    stop = {"requested_at": _at(0), "acknowledged_at": _at(0), "observed_at": None, **stop}
    return {"id": "r", "status": STOPPING, "in_flight": list(calls), "stop": stop}


def _stopped(**changes: Any) -> dict[str, Any]:
    stop = {
        "mode": "graceful",
        "reason": "wrong document",
        "via": "page",
        "requested_by": "demo",
        "requested_at": _at(0),
        "escalated_by": None,
        "escalated_at": None,
        "acknowledged_at": _at(0.001),
        "observed_at": _at(3.2),
        "finished_first": False,
        "calls_started_after_acknowledgement": 0,
        "root_request": "r",
        "abandoned": False,
        "abort_at": None,
        "abandon_at": None,
        "calls_cut": 0,
        "left_behind": [],
        "limit": None,
        "cleanup_error": None,
    }
    run = {"id": "r", "status": "stopped", "started_at": _at(-60), "partial_result": "so far"}
    run |= {"finished_at": _at(4), "unwatched": {"threads": 0, "processes": 0}}
    for name, value in changes.items():
        (stop if name in stop else run)[name] = value
    return {**run, "stop": stop}


def _text(run: dict[str, Any], *calls: dict[str, Any], **options: Any) -> str:
    return " ".join(sentences(run, waited_for=calls, **options))


def test_the_receipt_is_the_one_of_the_brief() -> None:
    assert _text(_stopped(), _call("call_llm")) == (
        "Stopped by demo at 14:03:22 (reason: wrong document). "
        "It took effect 3.2 s later, after the LLM call in flight had completed. "
        "Nothing was started after that. What it had so far is kept below."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"via": "cli"}, "Stopped by demo from the command line at 14:03:22."),
        ({"via": "cli", "requested_by": None}, "Stopped from the command line at 14:03:22."),
        ({"via": "admin"}, "Stopped by demo in the admin at 14:03:22."),
        ({"via": "api"}, "Stopped by demo through the API at 14:03:22."),
        ({"requested_by": None}, "Stopped at 14:03:22."),
        (
            {"via": "parent", "root_request": "above"},
            "Stopped by demo with the run that called it at 14:03:22.",
        ),
        (
            {"via": "parent", "root_request": "above", "requested_by": None},
            "Stopped with the run that called it at 14:03:22.",
        ),
        (
            {"via": "parent", "requested_by": None},
            "Stopped by the run that called it at 14:03:22.",
        ),
        ({"via": "budget", "requested_by": None}, "Stopped by its budget at 14:03:22."),
    ],
)
def test_who_stopped_it_and_how(changes: dict[str, Any], words: str) -> None:
    assert sentences(_stopped(reason="", **changes))[0] == words


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([], "It took effect 3.2 s later."),
        ([_call("http")], "after the HTTP request in flight had completed."),
        ([_call("data_store.set")], "after the data store call in flight had completed."),
        ([_call("agents.call", "a")], "after the sub-agent a had stopped."),
        ([_call("http"), _call("call_llm")], "after the 2 calls in flight had completed."),
    ],
)
def test_what_it_took_to_take_effect(calls: list[dict[str, Any]], words: str) -> None:
    assert words in _text(_stopped(), *calls)


def test_a_run_that_finished_first() -> None:
    assert _text(_stopped(status="success", requested_by=None, reason="")) == (
        "A stop was asked for at 14:03:22, but the run had already done its work."
    )
    assert "had already ended in an error" in _text(_stopped(status="error"))


def test_a_queued_run_had_not_started() -> None:
    run = _stopped(started_at=None, acknowledged_at=None, observed_at=None, partial_result=None)
    assert sentences(run)[1:] == ["It had not started."]


def test_nothing_is_claimed_of_a_run_whose_worker_was_lost() -> None:
    text = _text(_stopped(observed_at=None, partial_result=None))
    assert "Its worker was lost" in text
    assert "Nothing was started" not in text


def test_calls_that_were_started_all_the_same_are_admitted() -> None:
    text = _text(_stopped(calls_started_after_acknowledgement=2))
    assert "2 calls were started all the same." in text
    assert "Nothing was started" not in text


def test_an_error_while_cleaning_up_is_told() -> None:
    error = {"type": "OSError", "message": "disk full"}
    text = _text(_stopped(cleanup_error=error, partial_result=None))
    assert "While cleaning up it failed with OSError: disk full" in text
    assert "It left no partial result." in text


def test_an_escalation_is_told_with_what_it_cut() -> None:
    cut = {**_call("call_llm"), "outcome": "aborted"}
    run = _stopped(mode="abort", escalated_by="admin", escalated_at=_at(18), calls_cut=1)
    assert _text(run, cut) == (
        "Stopped by demo at 14:03:22 (reason: wrong document). "
        "From 14:03:40 on calls in flight were cut by admin. "
        "It took effect 3.2 s later. Cut 1 call. "
        "Nothing was started after that. What it had so far is kept below."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"escalated_by": "admin"},
            "From 14:03:40 on calls in flight were cut by admin.",
        ),
        ({"abort_at": _at(18)}, "From 14:03:40 on calls in flight were cut, as planned."),
        # By the run that called it, or from the command line.
        ({}, "From 14:03:40 on calls in flight were cut."),
        # Planned for later: a person was faster.
        ({"abort_at": _at(60)}, "From 14:03:40 on calls in flight were cut."),
        (
            {"mode": "abandon", "abandoned": True, "escalated_by": "a"},
            "Given up at 14:03:40 by a: its code may still run.",
        ),
        (
            {"mode": "abandon", "abandoned": True, "abandon_at": _at(18)},
            "Given up at 14:03:40, as planned: its code may still run.",
        ),
    ],
)
def test_who_made_it_harder(changes: dict[str, Any], words: str) -> None:
    run = _stopped(**{"mode": "abort", "escalated_at": _at(18), **changes})
    assert sentences(run)[1] == words


@pytest.mark.parametrize(
    ("calls_cut", "words"),
    [(0, "There was no call to cut."), (1, "Cut 1 call."), (12, "Cut 12 calls.")],
)
def test_a_cut_tells_how_many_calls_it_cut(calls_cut: int, words: str) -> None:
    assert words in sentences(_stopped(mode="abort", calls_cut=calls_cut))
    assert "cut" not in _text(_stopped())


def test_a_call_that_was_complete_when_the_cut_came_was_waited_for() -> None:
    cut, complete = {**_call("http"), "outcome": "aborted"}, {**_call("call_llm"), "outcome": "ok"}
    text = _text(_stopped(mode="abort", calls_cut=1), cut, complete)
    assert "after the LLM call in flight had completed. Cut 1 call." in text


def test_a_run_that_was_given_up_promises_nothing_about_its_code() -> None:
    left = [{"kind": "thread", "label": "slow (a.py:3)", "since": _at(0), "ended_at": None}]
    run = _stopped(
        mode="abandon", abandoned=True, observed_at=None, left_behind=left, partial_result=None
    )
    assert _text(run) == (
        "Stopped by demo at 14:03:22 (reason: wrong document). "
        "Given up: 1 thread may still run: slow (a.py:3). "
        "What it does is not recorded, and it can store nothing. It left no partial result."
    )
    left[0]["ended_at"] = _at(24)
    assert "Left behind: 1 thread: slow (a.py:3); it ended 20 s after the run." in _text(run)


def test_a_queued_run_that_was_given_up_had_not_started() -> None:
    run = _stopped(mode="abandon", started_at=None, observed_at=None, partial_result=None)
    assert sentences(run)[1:] == ["It had not started."]


@pytest.mark.parametrize("status", ["stopped", "success", "error"])
def test_what_is_not_watched_is_told_however_the_run_has_ended(status: str) -> None:
    text = _text(_stopped(status=status, unwatched={"threads": 1, "processes": 1}))
    assert "It started 1 thread and 1 process that are not watched." in text


def test_a_run_that_finished_first_says_what_no_guard_saw() -> None:
    run = _stopped(status="success", observed_at=None, finished_first=True)
    text = _text({**run, "unwatched": {"threads": 0, "processes": 0, "connections": 2}})
    assert text.endswith("It made 2 connections that no guard saw.")


def test_where_the_result_is_not_shown_nothing_is_below() -> None:
    assert _text(_stopped(), result_below=False).endswith("What it had so far is kept.")


def test_while_stopping_the_receipt_says_how_it_stands() -> None:
    run = {**_stopped(status=STOPPING, observed_at=None), "in_flight": [_call("call_llm")]}
    assert _text(run) == (
        "A stop was asked for at 14:03:22 by demo (reason: wrong document). "
        "Stopping... (after current LLM call completes)."
    )


def test_while_stopping_it_says_what_is_planned() -> None:
    run = _stopped(status=STOPPING, observed_at=None, abort_at=_at(10), abandon_at=_at(70))
    said = sentences({**run, "in_flight": [_call("call_llm")]})
    assert said[1:3] == [
        "At 14:03:32 the calls in flight are cut.",
        "At 14:04:32 it is given up.",
    ]
    harder = _stopped(status=STOPPING, mode="abort", abort_at=_at(10), abandon_at=_at(70))
    assert "are cut" not in _text({**harder, "in_flight": []})


def test_without_a_stop_there_is_no_receipt() -> None:
    assert sentences({"id": "r", "status": "success", "stop": None}) == []


def test_only_calls_across_the_acknowledgement_were_waited_for() -> None:
    def event(started: float, ended: float) -> dict[str, Any]:
        return {"ts": _at(ended), "data": _call("call_llm", f"{started}", started)}

    events = [event(-5, -1), event(-2, 3), event(1, 2), {"ts": _at(4), "data": {}}]
    stop = {"acknowledged_at": _at(0)}
    assert [call["label"] for call in calls_waited_for(events, stop)] == ["-2"]
    assert calls_waited_for(events, {"acknowledged_at": None}) == []


def test_what_users_wrote_turns_no_direction() -> None:
    run = _stopped(stop_reason=None)
    run["stop"] |= {"reason": "a\u202egnp.exe \u2067b", "requested_by": "eve\u200f"}
    said = " ".join(sentences(run))
    assert "by eve\ufffd" in said
    assert "(reason: a\ufffdgnp.exe \ufffdb)" in said
