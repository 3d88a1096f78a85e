"""Deadlines on several processes: a worker that is killed, frozen, draining, or hears nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster, Web
from tests.support.request_inbox import RequestInbox
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow, pytest.mark.thorough]

DEADLINE = 2.0


def start(web: Web, agent: str, deadline: float = DEADLINE, **input: Any) -> str:
    body = {"agent": agent, "input": input, "limits": {"deadline_seconds": deadline}}
    answer = web.client.post("/runs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def until_ended(web: Web, run: str, *, within: float) -> dict[str, Any]:
    """Wait until its deadline has stopped a run, for so long after the deadline."""
    deadline = instant(web.run(run)["limits"]["deadline_at"])
    left = (deadline - datetime.now(UTC)).total_seconds()
    record = web.until(run, "stopped", within=max(left, 0) + within + 20)
    stop = record["stop"]
    assert (stop["via"], stop["requested_by"]) == ("budget", None)
    assert (stop["limit"]["kind"], stop["limit"]["limit"]) == ("wall", DEADLINE)
    late = (instant(stop["requested_at"]) - deadline).total_seconds()
    assert 0 <= late < within, f"asked {late} s after the deadline"
    return record


@pytest.mark.parametrize("agent", ["witness-once", "witness-again"])
def test_the_run_of_a_killed_worker_is_stopped_not_requeued(
    make_cluster: MakeCluster, agent: str
) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="9")  # at least six are left when it is killed
    (web,), (victim, _) = cluster.launch(webs=1, workers=2, RUNS_EMBEDDED_WORKER="0")
    runs = [start(web, agent, seconds=3600) for _ in range(6)]
    eventually(lambda: cluster.started() >= set(runs), "all have started")
    # As if it were on another host, where no worker can check its process.
    cluster.execute(
        "UPDATE runs_workerrecord SET host_identity = 'elsewhere' WHERE pid = %s", victim.pid
    )
    victim.kill()
    for run in runs:
        until_ended(web, run, within=5)
    records = assert_books_balance(cluster, started=runs)
    assert {record.attempt for record in records} == {1}


def test_a_frozen_worker_calls_nothing_after_it(make_cluster: MakeCluster) -> None:
    """The web process asks its runs to stop meanwhile; the frozen one has heard nothing of it."""
    # If it freezes in a transaction, the database ends that after a third of the lease, and the web
    # process looks again within a second. The lease holds for at least two thirds, 20 s.
    cluster = make_cluster(RUNS_LEASE_SECONDS="30")
    with RequestInbox() as inbox:
        (web,), (worker,) = cluster.launch(webs=1, workers=1, RUNS_EMBEDDED_WORKER="0")
        runs = [start(web, "witness-caller", url=inbox.url) for _ in range(5)]
        eventually(lambda: cluster.started() >= set(runs), "all have started")
        eventually(lambda: {q["run"] for q in inbox.received} >= set(runs), "all call")
        worker.pause()
        deadlines = {run: instant(web.run(run)["limits"]["deadline_at"]) for run in runs}
        last = max(deadlines.values())
        time.sleep(max(0.0, (last - datetime.now(UTC)).total_seconds()))
        eventually(lambda: all(web.run(run)["stop"] for run in runs), "all are asked", 19)
        resumed_at = time.time()
        worker.resume()
        for run in runs:
            until_ended(web, run, within=19)
        late = [q for q in inbox.received if float(q["at"]) > resumed_at]
        assert [q for q in late if q["run"] in runs] == []
    assert_books_balance(cluster, started=runs)


def test_it_holds_without_messages(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(REDIS_URL="")
    (web,), _ = cluster.launch(webs=1, workers=2, RUNS_EMBEDDED_WORKER="0")
    runs = [start(web, "witness-talker", pause=0.02) for _ in range(6)]
    for run in runs:
        eventually(lambda run=run: web.run(run)["started_at"], "it has started")
    for run in runs:
        record = until_ended(web, run, within=3)
        took = instant(record["finished_at"]) - instant(record["limits"]["deadline_at"])
        assert took.total_seconds() < 5
    assert_books_balance(cluster, started=runs)


def test_it_holds_for_runs_that_wait_in_the_queue_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(RUNS_DRAIN_SECONDS="0")
    (web,), (worker,) = cluster.launch(webs=1, workers=1, RUNS_EMBEDDED_WORKER="0")
    runs = [start(web, "witness-again", seconds=3600) for _ in range(3)]
    eventually(lambda: cluster.started() >= set(runs), "all have started")
    worker.terminate()
    worker.wait()
    assert {web.run(run)["status"] for run in runs} <= {"queued", "stopped"}
    for run in runs:  # no worker is left: the web process looks after them
        until_ended(web, run, within=5)
    assert_books_balance(cluster, started=runs)


def test_a_called_run_on_another_worker_stops_with_its_caller(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    (web,), _ = cluster.launch(webs=1, workers=2, RUNS_EMBEDDED_WORKER="0")
    run = start(web, "site-relay", seconds=3600)
    eventually(lambda: _children(cluster, run) == 2, "it has called others")
    until_ended(web, run, within=5)
    cluster.until_quiet()
    below = "SELECT stop_via, status, root_id FROM runs_runrecord WHERE parent_id = %s"
    rows = cluster.execute(below, run)
    assert {(via, status) for via, status, _ in rows} == {("parent", "stopped")}
    assert_books_balance(cluster, started=[run])


def _children(cluster: Cluster, run: str) -> int:
    sql = "SELECT count(*) FROM runs_runrecord WHERE parent_id = %s AND status = 'running'"
    return int(cluster.execute(sql, run)[0][0])
