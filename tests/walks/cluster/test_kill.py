"""A worker with many runs is killed: all are dealt with within lease and reaper period.

``KILLED_RUNS=200`` kills more, in fortieths.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runs.models import RunRecord
from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

LEASE_SECONDS = 3
FLUSH_SECONDS = 2.0  # 0.05 on a machine without other load

COUNT = int(os.environ.get("KILLED_RUNS") or 80)
#: Of forty.
MIX: list[tuple[str, dict[str, Any], int]] = [
    ("witness-talker", {}, 14),
    ("witness-once", {"seconds": 3600}, 8),
    ("witness-once", {"seconds": 0}, 2),
    ("witness-again", {"seconds": 2}, 8),
    ("witness-swallower", {}, 3),
    ("witness-thread", {}, 1),
    ("witness-tree", {}, 3),
    ("witness-tree", {"depth": 2}, 1),
]
SHARE = COUNT // 40


def test_no_record_is_false_after_a_kill_with_many_runs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS=str(LEASE_SECONDS))
    (web,), (victim,) = cluster.launch(webs=1, workers=1)
    # As if it were on another host, where no worker can check its process.
    cluster.execute("UPDATE runs_workerrecord SET host_identity = 'elsewhere'")

    with ThreadPoolExecutor(8) as pool:
        wanted = [(agent, input) for agent, input, count in MIX for _ in range(count * SHARE)]
        started = list(pool.map(lambda run: web.start(run[0], **run[1]), wanted))
        assert len(started) == COUNT
        rescuer = pool.submit(cluster.worker, RUNS_MAX_CONCURRENT="300")
        eventually(lambda: cluster.started() >= set(started), "all have started")
        rescuer.result()
    talkers, trees = started[: 14 * SHARE], started[-4 * SHARE :]
    asked = talkers[: 5 * SHARE] + trees[::4]
    body = {"ids": asked, "reason": "mine"}
    assert web.client.post("/runs/stop", json=body).status_code == 202
    killed_at = time.time()
    victim.kill()

    running = "SELECT count(*) FROM runs_runrecord JOIN runs_workerrecord w ON w.id = worker_id"
    running += " WHERE status = 'running' AND w.pid = %s"
    left = cluster.execute(running, victim.pid)[0][0]
    assert left > COUNT // 2, "the test needs runs whose loss is not published yet"
    eventually(
        lambda: cluster.execute(running, victim.pid)[0][0] == 0,
        "all are dealt with",
        LEASE_SECONDS + LEASE_SECONDS / 3 + 15,
    )
    cluster.until_quiet()

    records = assert_books_balance(cluster, started=started, asked=asked)
    by_id = {str(record.pk): record for record in records}
    assert {by_id[id].status for id in asked} == {"stopped"}
    assert {by_id[id].stop_reason for id in asked} == {"mine"}
    for record in records:
        if record.agent == "witness-again":
            assert record.status == "success"
            assert record.attempt <= 2
        elif record.status == "error":
            assert record.error is not None
            assert record.error["code"] == "worker_lost"
        elif record.status == "stopped":
            assert str(record.stop_root_request) in asked
    _assert_logs_reach_the_last_flush(cluster, [by_id[id] for id in talkers], killed_at)


def _assert_logs_reach_the_last_flush(
    cluster: Cluster, talkers: list[RunRecord], killed_at: float
) -> None:
    logged: Counter[str] = Counter()
    long_before: dict[str, int] = defaultdict(int)
    for line in cluster.witnesses():
        if line["word"] == "logged":
            logged[line["run"]] += 1
            if line["at"] < killed_at - FLUSH_SECONDS:
                long_before[line["run"]] += 1
    for record in talkers:
        log = [e.data["message"] for e in record.events.all() if e.type == "log"]
        lines = [message for message in log if message.startswith("line ")]
        assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
        run = str(record.pk)
        assert long_before[run] <= len(lines) <= logged[run] + 1
