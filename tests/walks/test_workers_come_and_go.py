"""Separate web processes and workers: what users see when the workers are gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Installation, eventually

pytestmark = pytest.mark.slow


def test_when_the_only_worker_is_killed_the_site_tells_the_truth(tmp_path: Path) -> None:
    """Its lease decides, as if it had been on another host."""
    site = Installation(tmp_path, RUNS_EMBEDDED_WORKER="0", RUNS_LEASE_SECONDS="3")
    with site.serving() as server:
        with site.working() as worker:
            site.database.execute("UPDATE runs_workerrecord SET host_identity = 'elsewhere'")
            loop = server.start("site-loop")
            stopping = server.start("site-deaf")
            tree = server.start("site-tree")
            again = server.start("site-again", key="killed")
            for run in (loop, stopping, tree):
                server.until_it_works(run)
            server.until_it_has_called(again, "data_store.set")
            assert server.client.post(f"/runs/{stopping}/stop").status_code == 202
            worker.kill()
        # The lease, and a third of it between two polls; the rest allows for a busy machine.
        for run in (loop, tree):
            assert server.until(run, "error", within=20)["error"]["code"] == "worker_lost"
        assert server.until(stopping, "stopped", within=20)["stop"]["observed_at"] is None
        assert server.until(again, "queued", within=20)["attempt"] == 1
        for run in (loop, stopping, tree):
            events = server.events(run)
            assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
            assert events[-1]["type"] == "agent_end"
        with site.working():
            assert server.until(again, "success")["result"] == "second attempt"


def test_a_killed_worker_on_this_host_is_found_by_the_site_without_waiting(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_EMBEDDED_WORKER="0", RUNS_LEASE_SECONDS="600")
    with site.serving() as server, site.working() as worker:
        run = server.start("site-loop")
        server.until_it_works(run)
        worker.kill()
        assert server.until(run, "error")["error"]["code"] == "worker_lost"


def test_a_request_that_waits_for_an_end_is_answered_when_the_site_shuts_down(
    tmp_path: Path,
) -> None:
    site = Installation(tmp_path, RUNS_EMBEDDED_WORKER="0")
    with site.serving() as server, site.working():
        run = server.start("site-deaf")
        server.until_it_works(run)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(server.client.post, f"/runs/{run}/stop", params={"wait": 60})
            eventually(lambda: server.run(run)["status"] == "stopping", "the stop is requested")
            server.terminate()
            answer = waiting.result()
        assert (answer.status_code, answer.json()["status"]) == (202, "stopping")
        assert server.process.wait(20) == 0, server.output
        assert "Cancel" not in server.output


def test_a_tree_over_two_processes_is_stopped_from_below(tmp_path: Path) -> None:
    """The site runs the root, a worker runs its children."""
    site = Installation(tmp_path, RUNS_LEASE_SECONDS="3")
    with site.serving(RUNS_MAX_CONCURRENT="1") as server:
        agents = ["site-loop", "site-brief", "site-loop"]
        root = server.start("site-starter", agents=agents, key="go")
        server.until_it_works(root)
        with site.working():
            opener = server.start("site-set", key="go")
            server.until(opener, "success")

            def children() -> list[dict[str, Any]]:
                answer = server.client.get("/runs", params={"parent": root})
                return list(answer.json()["results"])

            def are_at_work() -> bool:
                return len(children()) == 3 and all(c["last_seq"] >= 2 for c in children())

            eventually(are_at_work, "the children are at work")
            assert server.run(root)["worker"] not in {c["worker"] for c in children()}
            assert server.client.post(f"/runs/{root}/stop").status_code == 202
            ended = server.until(root, "stopped")
            for child in children():
                assert child["status"] in ("stopped", "success")
                assert child["finished_at"] <= ended["finished_at"]
                if child["status"] == "stopped":
                    assert child["stop"]["root_request"] == root
