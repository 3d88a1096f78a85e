"""Runs that change the state of a real server process harm no other run, nor its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Installation, Server, eventually

pytestmark = pytest.mark.slow


def test_overlapping_runs_that_bend_the_process_harm_no_other(tmp_path: Path) -> None:
    with Installation(tmp_path).serving() as server:
        before = _report(server)
        benders = [server.start("site-bend") for _ in range(2)]
        for run in benders:
            eventually(lambda run=run: _has(server, run, "log", "bent"), "it has bent")
        during = _report(server)
        benders.append(server.start("site-bend-def"))
        for run in benders[:2]:
            assert server.client.post(f"/runs/{run}/stop").status_code == 202
        for run in benders:
            server.until(run, "stopped", "success")
        after = _report(server)

        assert before == during == after
        for run in benders:
            record = server.run(run)
            assert "bent\n" in (record["partial_result"], record["result"])
            assert _has(server, run, "log", "changed the working directory")
            assert _has(server, run, "log", "(OWNERS_KEY)")
        assert "secret-of-the-owner" not in server.output


def _report(server: Server) -> Any:
    """Start a run that tells what it finds; its printing and logging are where they belong."""
    run = server.start("site-report")
    record = server.until(run, "success", "error")
    assert record["status"] == "success", record["error"]
    assert _has(server, run, "stdout", "printed")
    assert _has(server, run, "log", "reported")
    assert not _has(server, run, "log", "put back")
    eventually(lambda: f"reported [run {run}]" in server.output, "the process's log has the line")
    return record["result"]


def _has(server: Server, run: str, kind: str, words: str) -> bool:
    return any(
        event["type"] == kind and words in str(event["data"]) for event in server.events(run)
    )
