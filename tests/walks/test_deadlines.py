"""A deadline over a real process: one that is frozen, one that blocks its loop, one that starts
again. A file outside the books says what the agent did.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Installation, Server, eventually

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    file = tmp_path / "witness.jsonl"
    file.touch()
    return file


@pytest.fixture
def server(tmp_path: Path, witness: Path) -> Iterator[Server]:
    """One process: no other one looks after its runs."""
    installation = Installation(tmp_path, WITNESS_FILE=str(witness))
    with installation.serving() as server:
        yield server


def start(server: Server, agent: str, deadline: float, **input: Any) -> str:
    body = {"agent": agent, "input": input, "limits": {"deadline_seconds": deadline}}
    answer = server.client.post("/runs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def said(witness: Path, run: str, word: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in witness.read_text().splitlines()]
    return [line for line in lines if (line["run"], line["word"]) == (run, word)]


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def ended_by_its_deadline(run: dict[str, Any]) -> None:
    stop = run["stop"]
    assert (run["status"], stop["via"], stop["requested_by"]) == ("stopped", "budget", None)
    assert (stop["limit"]["kind"], stop["limit"]["scope"]) == ("wall", "run")
    assert instant(stop["requested_at"]) >= instant(run["limits"]["deadline_at"])
    assert stop["calls_started_after_acknowledgement"] == 0


def test_a_process_that_was_frozen_over_it_admits_nothing_after_it(
    server: Server, witness: Path
) -> None:
    run = start(server, "witness-talker", 3, pause=0.01)
    eventually(lambda: len(said(witness, run, "logged")) > 3, "it works")
    deadline = instant(server.run(run)["limits"]["deadline_at"])
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(max(0.0, (deadline - datetime.now(UTC)).total_seconds()) + 0.5)
    resumed_at = datetime.now(UTC)
    server.process.send_signal(signal.SIGCONT)
    record = server.until(run, "stopped", within=15)
    ended_by_its_deadline(record)
    calls = [e["data"] for e in server.events(run) if e["type"] == "data_store"]
    assert max(instant(call["started_at"]) for call in calls) < deadline
    assert instant(record["finished_at"]) > resumed_at


def test_a_run_whose_loop_is_blocked_stops_when_it_can(server: Server) -> None:
    run = start(server, "site-block", 0.5, seconds=2.0)
    record = server.until(run, "stopped", "success", within=20)
    # Nothing in this agent asks; so its work counts, and the receipt says that it came second.
    assert (record["status"], record["stop"]["finished_first"]) == ("success", True)
    late = instant(record["stop"]["requested_at"]) - instant(record["limits"]["deadline_at"])
    assert 0 <= late.total_seconds() < 1.9, "the heart does not wait for the loop"


def test_a_killed_process_that_starts_again_stops_what_is_overdue(
    tmp_path: Path, witness: Path
) -> None:
    installation = Installation(tmp_path, WITNESS_FILE=str(witness))
    with installation.serving() as server:
        run = start(server, "witness-again", 2, seconds=3600)
        eventually(lambda: said(witness, run, "start"), "it has started")
        deadline = instant(server.run(run)["limits"]["deadline_at"])
        server.kill()
    time.sleep(max(0.0, (deadline - datetime.now(UTC)).total_seconds()))
    with installation.serving() as server:
        ended_by_its_deadline(server.until(run, "stopped", within=20))
    assert len(said(witness, run, "start")) == 1, "it was not started again"
