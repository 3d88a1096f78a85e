"""What was left behind, and what was started unwatched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runs.wording.left_behind import is_still_running, left_behind, unwatched

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def _left(kind: str, label: str = "", ended: float | None = None) -> dict[str, Any]:
    ended_at = None if ended is None else _at(ended)
    return {"kind": kind, "label": label, "since": _at(0), "ended_at": ended_at}


def _run(*left: dict[str, Any]) -> dict[str, Any]:
    return {"finished_at": _at(1), "stop": {"left_behind": list(left)}}


def _text(*left: dict[str, Any]) -> str:
    return " ".join(left_behind(_run(*left), "Given up"))


SILENT = "What it does is not recorded, and it can store nothing."


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (
            [_left("thread", "slow (agents.py:34)")],
            f"Given up: 1 thread may still run: slow (agents.py:34). {SILENT}",
        ),
        (
            [_left("thread", "a"), _left("thread", "b"), _left("call_llm", "llama3")],
            f"Given up: 2 threads and 1 LLM call may still run: a, b, llama3. {SILENT}",
        ),
        (
            [_left("process", "sh"), _left("task", "poll")],
            f"Given up: 1 process and 1 task may still run: sh, poll. {SILENT}",
        ),
        (
            [_left("agents.wait", "merge"), _left("data_store.set", "a/b"), _left("http", "GET x")],
            "Given up: 1 sub-agent and 1 data store call and 1 HTTP request may still run: "
            f"merge, a/b, GET x. {SILENT}",
        ),
        ([_left("code", "echo")], f"Given up: its code may still run: echo. {SILENT}"),
        ([], f"Given up: its code may still run. {SILENT}"),
        (
            [_left("thread", "slow", ended=21)],
            "Given up. Left behind: 1 thread: slow; it ended 20 s after the run.",
        ),
        (
            [_left("thread", "a", ended=3), _left("thread", "b", ended=21)],
            "Given up. Left behind: 2 threads: a, b; they had ended 20 s after the run.",
        ),
        (
            [_left("thread", "a", ended=3), _left("task", "b")],
            f"Given up: 1 task may still run: b. {SILENT} "
            "Left behind: 1 thread: a; it ended 2.0 s after the run.",
        ),
    ],
)
def test_what_was_left_behind_is_counted_and_named(left: list[dict[str, Any]], words: str) -> None:
    assert _text(*left) == words


def test_of_very_many_the_first_are_named() -> None:
    text = _text(*(_left("thread", f"job {n}") for n in range(9)))
    assert "9 threads may still run: job 0, job 1, job 2, job 3, job 4, 4 more." in text


def test_what_an_agent_named_turns_no_direction() -> None:
    assert "a\ufffdb" in _text(_left("thread", "a\u202eb"))


def test_it_is_still_running_until_all_of_it_has_ended() -> None:
    assert is_still_running(_run(_left("thread", ended=1), _left("thread")))
    assert not is_still_running(_run(_left("thread", ended=1)))
    assert not is_still_running(_run())
    assert not is_still_running({"stop": None})


@pytest.mark.parametrize(
    ("threads", "processes", "connections", "words"),
    [
        (0, 0, 0, ""),
        (1, 0, 0, "It started 1 thread that is not watched."),
        (0, 2, 0, "It started 2 processes that are not watched."),
        (1, 1, 0, "It started 1 thread and 1 process that are not watched."),
        (0, 0, 1, "It made 1 connection that no guard saw."),
        (
            *(1, 0, 2),
            "It started 1 thread that is not watched. It made 2 connections that no guard saw.",
        ),
    ],
)
def test_what_is_not_watched_is_counted(
    threads: int, processes: int, connections: int, words: str
) -> None:
    counts = {"threads": threads, "processes": processes, "connections": connections}
    assert unwatched(**counts) == words
