"""Whatever waits for PostgreSQL goes on soon after it is back, and no run is lost by the wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster, Web, Worker
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

SOON_SECONDS = 1.0  # half a second, and as much again for a busy machine


@pytest.mark.parametrize("how", ["stopped", pytest.param("frozen", marks=pytest.mark.thorough)])
def test_all_that_wait_are_answered(how: str, make_cluster: MakeCluster) -> None:
    """Heartbeat, recorder, claims, data store, requests, and the reaper of a web process."""
    cluster = make_cluster(RUNS_LEASE_SECONDS="6")
    (web,), (worker,) = cluster.launch(webs=1, workers=1)
    talker = web.start("witness-talker", pause=0.02)
    web.until_it_works(talker)
    outages: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "stopped": cluster.postgres.away,
        "frozen": cluster.postgres.paused,
    }
    renewed = "SELECT heartbeat_at FROM runs_workerrecord WHERE lost_at IS NULL"
    [(before,)] = cluster.execute(renewed)
    with outages[how]():
        # The pool gives up several times, each thread waits, and a renewal is due.
        time.sleep(2.5)
    back_at = time.time()
    late: dict[str, float] = {}
    waiting: dict[str, Callable[[], Any]] = {
        "a request": lambda: web.client.get(f"/runs/{talker}").status_code == 200,
        "the heartbeat": lambda: cluster.execute(renewed)[0][0] > before,
        "the recorder": lambda: _last(cluster, "runs_runevent", "ts") > back_at,
        "the data store": lambda: _last(cluster, "runs_datastoreentry", "updated_at") > back_at,
    }

    def all_have_answered() -> bool:
        for what in waiting.keys() - late.keys():
            if waiting[what]():
                late[what] = time.time() - back_at
        return len(late) == len(waiting)

    eventually(all_have_answered, "all go on")
    started_at = time.time()
    brief = web.start("witness-once")
    web.until(brief, "success")
    late["a claim"] = time.time() - started_at
    assert {what for what, seconds in late.items() if seconds > SOON_SECONDS} == set(), late
    assert web.client.post(f"/runs/{talker}/stop").status_code == 202
    web.until(talker, "stopped")
    lines = worker.output.splitlines()
    assert len([line for line in lines if "the log can't be written" in line]) <= 2, "it repeats"
    assert_books_balance(cluster, started=[talker, brief], asked=[talker])


def _last(cluster: Cluster, table: str, column: str) -> float:
    sql = f"SELECT extract(epoch FROM max({column}))::float FROM {table}"
    return float(cluster.execute(sql)[0][0])


def test_runs_that_wait_for_a_blocked_loop_go_to_another_worker(make_cluster: MakeCluster) -> None:
    """Claimed, and nothing of them has happened: each starts once, whatever its agent declares."""
    cluster = make_cluster(RUNS_LEASE_SECONDS="3", RUNS_MAX_CONCURRENT="8")
    (web,), (blocked,) = cluster.launch(webs=1, workers=1)
    blocking = web.start("site-block", seconds=60)
    web.until_it_works(blocking)
    _until_the_loop_is_blocked(web, blocking)
    waiting = [web.start("witness-once") for _ in range(4)]
    held = "SELECT count(*) FROM runs_runrecord WHERE status = 'running'"
    cluster.eventually(lambda: cluster.execute(held)[0][0] == 5, "all are claimed", 10)
    assert cluster.started() & set(waiting) == set()
    _kill(blocked)
    cluster.worker()
    cluster.until_quiet()
    runs = [web.run(run) for run in waiting]
    assert [(run["status"], run["attempt"]) for run in runs] == [("success", 2)] * 4
    starts = [line["run"] for line in cluster.witnesses() if line["word"] == "start"]
    assert sorted(starts) == sorted(waiting), "each has started once"
    assert web.run(blocking)["error"]["code"] == "worker_lost"


def _until_the_loop_is_blocked(web: Web, run: str) -> None:
    def is_reported() -> bool:
        page = web.client.get(f"/runs/{run}/events").json()
        return any(event["type"] == "loop_blocked" for event in page["results"])

    eventually(is_reported, "the watchdog has reported it")


def _kill(worker: Worker) -> None:
    worker.kill()
    assert not worker.is_alive
