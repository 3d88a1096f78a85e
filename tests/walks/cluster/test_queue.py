"""Six workers and a long queue: each run is executed once, and the books balance.

``QUEUED_RUNS=20000`` makes the queue as long as in docs/benchmarks.md.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from runs.models import RunInput, RunRecord, uuid7
from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

COUNT = int(os.environ.get("QUEUED_RUNS") or 1_000)
WORKERS = 6
# Django composes the statement for so long that a server with a timeout for idle transactions may
# end this one, because six workers poll for runs meanwhile.
_BATCH_SIZE = 100


def test_six_workers_execute_each_queued_run_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="15")
    _, workers = cluster.launch(workers=WORKERS)
    started_at = time.monotonic()
    started = _queue(cluster, COUNT)  # all at one instant, while six workers poll
    assert cluster.until_quiet(within=60 + COUNT / 50) == {"success": COUNT}
    print(
        f"{COUNT} runs by {WORKERS} workers: {COUNT / (time.monotonic() - started_at):.0f} a second"
    )

    ends = Counter(line["run"] for line in cluster.witnesses() if line["word"] == "end")
    assert ends == dict.fromkeys(started, 1)
    records = assert_books_balance(cluster, started=started)
    assert {record.attempt for record in records} == {1}
    by_worker = Counter(record.worker.pid for record in records if record.worker is not None)
    print(f"by worker: {sorted(by_worker.values())}")
    assert set(by_worker) == {worker.pid for worker in workers}, "some workers had nothing to do"
    for worker in workers:
        assert "Traceback" not in worker.output


def _queue(cluster: Cluster, count: int) -> list[str]:
    """Queue runs as the actions do, but many at a time, and send no message."""
    with cluster.books(), transaction.atomic():
        owner = User.objects.get(username="demo")
        ids = [uuid7() for _ in range(count)]
        RunRecord.objects.bulk_create(
            [RunRecord(id=id, root_id=id, agent="witness-once", owner=owner) for id in ids],
            batch_size=_BATCH_SIZE,
        )
        inputs = [RunInput(run_id=id, value={}) for id in ids]
        RunInput.objects.bulk_create(inputs, batch_size=_BATCH_SIZE)
    return [str(id) for id in ids]
