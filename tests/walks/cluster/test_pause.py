"""A worker is frozen for longer than its lease, and resumes: its later writes have no effect."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runs.models import DataStoreEntry
from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster, Worker
from tests.support.request_inbox import RequestInbox
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]


def test_a_worker_that_was_frozen_beyond_its_lease_writes_nothing(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="3")
    with RequestInbox() as inbox:
        (web,), (zombie,) = cluster.launch(webs=1, workers=1)
        mix: list[tuple[str, dict[str, Any]]] = [
            *[("witness-caller", {"url": inbox.url})] * 15,
            *[("witness-caller-again", {"url": inbox.url})] * 10,
            *[("witness-thread", {})] * 3,
            *[("witness-swallower", {})] * 5,
            *[("witness-talker", {"pause": 0.02})] * 5,
            *[("witness-tree", {})] * 4,
        ]
        with ThreadPoolExecutor(8) as pool:
            started = list(pool.map(lambda run: web.start(run[0], **run[1]), mix))
            eventually(lambda: cluster.started() >= set(started), "all have started")
            rescuer = pool.submit(cluster.worker).result()

        zombie.pause()
        _until_no_run_belongs_to(cluster, zombie)
        again = set(started[15:25])
        cluster.eventually(
            lambda: again <= {q["run"] for q in inbox.received if q["pid"] == str(rescuer.pid)},
            "the runs that may be repeated have started again",
        )
        resumed_at = time.time()
        zombie.resume()

        cluster.until_quiet()
        # It has noticed by now, and has registered as a new worker.
        cluster.until_worker("pid = %s AND lost_at IS NULL", zombie.pid)
        # The frozen worker's; on a busy machine, also the other one's.
        lost = "SELECT count(*) FROM runs_workerrecord WHERE lost_at IS NOT NULL"
        losses = cluster.execute(lost)[0][0]
        rescuer.kill()
        last = web.start("witness-once")
        web.until(last, "success")

        late = [q for q in inbox.received if q["pid"] == str(zombie.pid)]
        assert [q for q in late if float(q["at"]) > resumed_at] == []
        records = assert_books_balance(cluster, started=[*started, last])
        with cluster.books():
            entries = list(DataStoreEntry.objects.values_list("value", flat=True))
        written = [e for e in entries if isinstance(e, dict) and e["pid"] == zombie.pid]
        assert [e for e in written if e["at"] > resumed_at] == []
    kept = {str(r.pk): r for r in records if r.parent_id is None}
    assert {kept[id].status for id in again} == {"success"}
    attempts = {kept[id].attempt for id in again}
    assert min(attempts) >= 2
    assert max(attempts) <= 1 + losses, "each attempt follows a lost worker"
    others = set(started) - again
    assert {kept[id].status for id in others} == {"error"}
    codes = [record.error["code"] for record in records if record.error is not None]
    assert set(codes) == {"worker_lost"}


def _until_no_run_belongs_to(cluster: Cluster, worker: Worker) -> None:
    held = "SELECT count(*) FROM runs_runrecord WHERE status = 'running' AND worker_id = %s"
    id = worker.id
    cluster.eventually(lambda: cluster.execute(held, id)[0][0] == 0, "others have taken over", 20)
