"""The only process ends, cleanly or not: no run is left in a false state."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.support.server import Installation, Server, eventually

pytestmark = pytest.mark.slow


def _assert_complete_log(server: Server, id: str) -> None:
    """Check that a finished run has a complete log."""
    run = server.run(id)
    events = server.events(id)
    assert [event["seq"] for event in events] == list(range(1, run["last_seq"] + 1))
    assert [event["type"] for event in events].count("agent_end") == 1
    assert events[-1]["type"] == "agent_end"
    assert events[-1]["data"]["status"] == run["status"]
    assert run["in_flight"] == []
    assert run["finished_at"] is not None


def test_sigterm_ends_or_requeues_runs_that_do_not_finish_in_time(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="1")
    with site.serving() as server:
        brief = server.start("site-brief", seconds=0.5)
        loop = server.start("site-loop")
        partial = server.start("site-partial")
        again = server.start("site-again", key="sigterm")
        tree = server.start("site-tree")
        for run in (brief, loop, partial, tree):
            server.until_it_works(run)
        server.until_it_has_called(again, "data_store.set")
        server.terminate()
        assert server.process.wait(60) == 0, server.output
        assert "Traceback" not in server.output

    rows = site.database.execute("SELECT id, status FROM runs_runrecord")
    ended = {uuid.UUID(str(id)): status for id, status in rows}
    assert ended.pop(uuid.UUID(again)) == "queued"
    assert "running" not in ended.values()

    with site.serving() as server:
        assert server.run(brief)["status"] == "success"
        for run in (loop, partial, tree):
            record = server.run(run)
            assert record["status"] == "error"
            assert record["error"]["code"] == "worker_shutdown"
            assert record["stop"] is None  # a shutdown is not a stop request
            _assert_complete_log(server, run)
        assert server.run(partial)["partial_result"] == "so far"
        children = server.client.get("/runs", params={"parent": tree}).json()["results"]
        assert [child["status"] for child in children] == ["error", "error"]
        second = server.until(again, "success")
        assert second["result"] == "second attempt"
        assert second["attempt"] == 2
        _assert_complete_log(server, again)


def test_a_stop_during_the_drain_is_a_stop(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="30")
    with site.serving() as server:
        run = server.start("site-loop")
        server.until_it_works(run)
        server.terminate()
        eventually(
            lambda: server.client.get("/health/ready").status_code == 503, "the drain starts"
        )
        answer = server.client.post(f"/runs/{run}/stop", json={"reason": "deploy"})
        assert answer.status_code == 202
        assert server.process.wait(30) == 0, server.output

    with site.serving() as server:
        record = server.run(run)
        assert record["status"] == "stopped"
        assert record["stop"]["reason"] == "deploy"
        assert record["stop"]["observed_at"] is not None
        _assert_complete_log(server, run)


def test_a_run_that_is_queued_during_the_drain_starts_in_the_next_process(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="30")
    with site.serving() as server:
        running = server.start("site-loop")
        server.until_it_works(running)
        server.terminate()
        eventually(
            lambda: server.client.get("/health/ready").status_code == 503, "the drain starts"
        )
        queued = server.start("site-trivial", number=7)
        assert server.run(queued)["status"] == "queued"
        server.client.post(f"/runs/{running}/stop")
        assert server.process.wait(30) == 0, server.output

    with site.serving() as server:
        assert server.until(queued, "success")["result"] == 7


def test_an_agent_that_ignores_its_token_does_not_keep_the_process(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="0")
    with site.serving() as server:
        run = server.start("site-deaf")
        server.until_it_works(run)
        server.terminate()
        assert server.process.wait(40) == 0, server.output
    with site.serving() as server:
        assert server.run(run)["error"]["code"] == "worker_shutdown"


def test_after_a_kill_the_next_process_takes_over_at_once(tmp_path: Path) -> None:
    # The lease is far longer than the test: only the takeover can be this fast.
    site = Installation(tmp_path, RUNS_LEASE_SECONDS="600", RUNS_MAX_CONCURRENT="4")
    with site.serving() as server:
        loop = server.start("site-loop")
        tree = server.start("site-tree")
        again = server.start("site-again", key="sigkill")
        deaf = server.start("site-deaf")
        for run in (loop, tree, deaf):
            server.until_it_works(run)
        server.until_it_has_called(again, "data_store.set")
        eventually(
            lambda: len(server.client.get("/runs", params={"parent": tree}).json()["results"]) == 2
        )
        waiting = server.start("site-trivial", number=1)  # all slots are taken
        assert server.run(waiting)["status"] == "queued"
        assert server.client.post(f"/runs/{deaf}/stop", json={"reason": "mine"}).status_code == 202
        server.kill()

    left = site.database.execute("SELECT count(*) FROM runs_runrecord WHERE status = 'running'")
    assert left[0][0] == 6  # the loss is not published yet

    with site.serving() as server:
        assert server.until(waiting, "success")["result"] == 1
        for run in (loop, tree):
            record = server.until(run, "error")
            assert record["error"]["code"] == "worker_lost"
            _assert_complete_log(server, run)
        for child in server.client.get("/runs", params={"parent": tree}).json()["results"]:
            assert child["error"]["code"] == "worker_lost"
            assert child["finished_at"] <= server.run(tree)["finished_at"]
        stopped = server.until(deaf, "stopped")
        assert stopped["stop"]["reason"] == "mine"
        _assert_complete_log(server, deaf)
        second = server.until(again, "success")
        assert (second["result"], second["attempt"]) == ("second attempt", 2)
        _assert_complete_log(server, again)


def test_after_a_kill_on_another_host_the_lease_decides(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_LEASE_SECONDS="3")
    with site.serving() as server:
        run = server.start("site-loop")
        server.until_it_works(run)
        server.kill()
    site.database.execute("UPDATE runs_workerrecord SET host_identity = 'elsewhere'")
    with site.serving() as server:
        assert server.until(run, "error", within=20)["error"]["code"] == "worker_lost"
