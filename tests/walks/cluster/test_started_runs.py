"""Trees over two workers, on PostgreSQL and Redis: stopped, killed, shut down, without messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster, Worker
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]


class Trees:
    """Two workers: roots start on ``first``, and their children on ``second``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        (self.web,), (self.first, self.second) = cluster.launch(webs=1, workers=2)
        self._started: list[str] = []

    def start(self, *roots: tuple[str, list[str]], leave: bool = False) -> list[str]:
        """Start roots, each an agent and its children; return them when all are at work."""
        key = f"go {len(self._started)}"
        self._let_claim(self.first)
        runs = []
        for agent, agents in roots:
            options = {"leave": True} if leave else {}
            runs.append(self.web.start(agent, agents=agents, key=key, **options))
        for run in runs:
            self.web.until_it_works(run)
        self._let_claim(self.second)
        self._started += [*runs, self.web.start("site-set", key=key)]
        for run, (_, agents) in zip(runs, roots, strict=True):
            self.until_they_work(run, len(agents))
            assert self.web.run(run)["worker"] not in {c["worker"] for c in self.children(run)}
        return runs

    def _let_claim(self, worker: Worker) -> None:
        """Let only this worker claim runs."""
        drain = (
            "UPDATE runs_workerrecord SET draining_at = CASE WHEN id = %s THEN NULL ELSE now() END"
        )
        self.cluster.execute(drain, worker.id)

    def children(self, of: str) -> list[dict[str, Any]]:
        answer = self.web.client.get("/runs", params={"parent": of, "page_size": 200})
        return list(answer.json()["results"])

    def child(self, of: str, agent: str) -> str:
        return next(c["id"] for c in self.children(of) if c["agent"] == agent)

    def until_they_work(self, of: str, count: int = 2) -> None:
        def are_at_work() -> bool:
            children = self.children(of)
            return len(children) == count and all(c["last_seq"] >= 2 for c in children)

        eventually(are_at_work, f"{count} children are at work")

    def balance(self, *asked: str) -> None:
        self.cluster.until_quiet()
        assert_books_balance(self.cluster, started=self._started, asked=asked)


def test_stops_reach_both_workers(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        trees = Trees(cluster)
        web = trees.web

        (root,) = trees.start(("site-starter", ["site-loop", "site-loop", "site-starter"]))
        middle = trees.child(root, "site-starter")
        trees.until_they_work(middle)
        started_at = time.monotonic()
        answer = web.client.post(f"/runs/{root}/stop?wait=20", json={"reason": "enough"})
        took = time.monotonic() - started_at
        assert answer.status_code == 200, "within 20 s"
        assert answer.json()["status"] == "stopped"
        assert took < 5, f"it took {took} s"
        for child in [*trees.children(root), *trees.children(middle)]:
            assert (child["status"], child["stop"]["reason"]) == ("stopped", "enough")
            assert (child["stop"]["via"], child["stop"]["root_request"]) == ("parent", root)
            assert child["finished_at"] <= answer.json()["finished_at"]

        (caller,) = trees.start(("site-starter", ["site-loop", "site-brief"]))
        alone = trees.child(caller, "site-loop")
        assert web.client.post(f"/runs/{alone}/stop").status_code == 202
        assert web.until(caller, "success")["result"] == ["stopped", "done"]

        (leaving,) = trees.start(("site-starter", ["site-loop", "site-brief"]), leave=True)

        def waits() -> bool:
            calls = web.run(leaving)["in_flight"]
            return [(c["tool"], c["label"]) for c in calls] == [("agents.wait", "site-loop")]

        eventually(waits, "the caller waits for the active child")
        left = trees.child(leaving, "site-loop")
        web.client.post(f"/runs/{left}/stop")
        assert web.until(leaving, "success")["result"] == ["left"]
        trees.balance(root, alone, left)


@pytest.mark.thorough
def test_without_redis_the_same_is_true_but_later(make_cluster: MakeCluster) -> None:
    with make_cluster(REDIS_URL="redis://127.0.0.1:1/0") as cluster:
        trees = Trees(cluster)
        stopped, ends = trees.start(
            ("site-starter", ["site-loop"]), ("site-starter", ["site-brief", "site-brief"])
        )
        trees.web.client.post(f"/runs/{stopped}/stop")
        assert trees.web.until(stopped, "stopped")["stop"]["observed_at"]
        assert trees.web.until(ends, "success")["result"] == ["done", "done"]
        trees.balance(stopped)


def test_the_childrens_worker_is_killed(make_cluster: MakeCluster) -> None:
    """One child fails with it; its caller starts the other again, as there is no other worker."""
    with make_cluster() as cluster:
        trees = Trees(cluster)
        (root,) = trees.start(("site-starter", ["site-loop", "site-again"]))
        trees.second.kill()
        run = trees.web.until(root, "success")
        assert run["result"] == ["failed: worker_lost", "second attempt"]
        again = trees.web.run(trees.child(root, "site-again"))
        assert (again["attempt"], again["worker"]) == (2, run["worker"])
        trees.balance()


def test_the_callers_worker_is_killed(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        trees = Trees(cluster)
        fails, again = trees.start(
            ("site-starter", ["site-loop", "site-starter"]), ("site-starter-again", ["site-loop"])
        )
        trees.first.kill()
        ended = trees.web.until(fails, "error")
        assert ended["error"]["code"] == "worker_lost"
        rerun = trees.web.until(again, "success")
        assert (rerun["result"], rerun["attempt"]) == (["second attempt"], 2)
        ends = [(child, ended["finished_at"]) for child in trees.children(fails)]
        ends += [(child, rerun["started_at"]) for child in trees.children(again)]
        for child, by in ends:
            assert (child["status"], child["stop"]["via"]) == ("stopped", "parent")
            assert child["stop"]["reason"] == "the worker of its caller was lost"
            assert child["finished_at"] <= by
        trees.balance()


@pytest.mark.thorough
def test_the_callers_worker_is_shut_down(make_cluster: MakeCluster) -> None:
    with make_cluster() as cluster:
        trees = Trees(cluster)
        fails, again = trees.start(
            ("site-starter", ["site-loop"]), ("site-starter-again", ["site-loop", "site-brief"])
        )
        trees.first.terminate()
        assert trees.first.wait() == 0
        assert trees.web.until(fails, "error")["error"]["code"] == "worker_shutdown"
        assert trees.web.until(again, "success")["result"] == ["second attempt"]
        for child in [*trees.children(fails), *trees.children(again)]:
            assert child["status"] == ("success" if child["agent"] == "site-brief" else "stopped")
        trees.balance()
