"""An agent that blocks or computes delays neither the site nor a stop, and the log names it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.server import Installation, Server, eventually

pytestmark = pytest.mark.slow
SECONDS = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    site = Installation(tmp_path_factory.mktemp("blocked"))
    with site.serving() as server:
        server.until(server.start("site-trivial"), "success")  # everything is imported
        yield server


def _answers_while(server: Server, run: str) -> list[float]:
    """Read the API repeatedly while ``run`` is running; return how long each answer took."""
    took = []
    while True:
        started_at = time.monotonic()
        status = server.run(run)["status"]
        if status != "running":
            return took
        took.append(time.monotonic() - started_at)


def test_the_api_answers_while_an_agent_blocks_its_loop(server: Server) -> None:
    run = server.start("site-block", seconds=SECONDS)
    eventually(lambda: server.run(run)["last_seq"] >= 2, "it starts to block")
    took = _answers_while(server, run)
    assert len(took) > 5
    assert max(took) < SECONDS / 2, "an answer waited for the agent"


def test_the_api_answers_while_a_def_agent_computes(server: Server) -> None:
    run = server.start("site-compute", seconds=SECONDS)
    eventually(lambda: server.run(run)["last_seq"] >= 2, "it starts to compute")
    took = _answers_while(server, run)
    assert len(took) > 5
    assert max(took) < SECONDS / 2, "an answer waited for the agent"


def test_the_blocking_agent_is_named_in_its_own_log_and_no_other_agent_is(server: Server) -> None:
    bystander = server.start("site-loop")
    server.until_it_works(bystander)
    blocker = server.start("site-block", seconds=SECONDS)
    server.until(blocker, "success")
    server.client.post(f"/runs/{bystander}/stop")
    server.until(bystander, "stopped")
    blocked, over = (e["data"] for e in server.events(blocker) if e["type"] == "loop_blocked")
    assert not blocked["is_over"]
    assert any(line.endswith(" in block") for line in blocked["where"])
    assert over["is_over"]
    assert over["blocked_ms"] >= SECONDS * 1000 * 0.9
    assert "loop_blocked" not in {e["type"] for e in server.events(bystander)}


def test_another_runs_stop_is_accepted_during_the_block_and_observed(server: Server) -> None:
    other = server.start("site-loop")
    server.until_it_works(other)
    blocker = server.start("site-block", seconds=SECONDS)
    eventually(lambda: server.run(blocker)["last_seq"] >= 2, "it starts to block")
    answer = server.client.post(f"/runs/{other}/stop")
    assert answer.status_code == 202
    assert server.run(blocker)["status"] == "running", "the stop waited for the blocker"
    stopped = server.until(other, "stopped")
    assert stopped["stop"]["calls_started_after_acknowledgement"] == 0


def test_another_runs_stop_is_observed_while_a_def_agent_computes(server: Server) -> None:
    other = server.start("site-loop")
    server.until_it_works(other)
    computing = server.start("site-compute", seconds=SECONDS)
    eventually(lambda: server.run(computing)["last_seq"] >= 2, "it starts to compute")
    server.client.post(f"/runs/{other}/stop")
    server.until(other, "stopped")
    assert server.run(computing)["status"] == "running", "the stop waited for the computation"
    server.until(computing, "success")
