"""Every process is restarted once while runs are started all the time: no user notices.

``DEPLOY_SECONDS=60`` keeps the load up for longer.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.audit import assert_books_balance
from tests.support.client import Client
from tests.support.cluster import MakeCluster

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

SECONDS = float(os.environ.get("DEPLOY_SECONDS") or 6)
PER_SECOND = 10

#: agent, input, and its share in percent
MIX: list[tuple[str, dict[str, Any], int]] = [
    ("witness-once", {"seconds": 0.2}, 40),
    ("witness-once", {"seconds": 4}, 15),  # longer than the drain
    ("witness-again", {"seconds": 0.2}, 20),
    ("witness-again", {"seconds": 4}, 10),
    ("witness-tree", {"seconds": 0.2}, 7),
    ("witness-swallower", {"seconds": 3}, 3),
    ("witness-thread", {"seconds": 1}, 2),
    ("witness-failure", {}, 3),
]


@pytest.mark.thorough
def test_a_rolling_deploy_under_load_loses_doubles_and_stops_no_run(
    make_cluster: MakeCluster,
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    chance = random.Random(seed)
    cluster = make_cluster(RUNS_LEASE_SECONDS="5", RUNS_DRAIN_SECONDS="1")
    webs, workers = cluster.launch(webs=2, workers=3)
    client = Client(webs)
    over = threading.Event()

    with ThreadPoolExecutor(16) as pool:
        load = pool.submit(_load, client, chance, pool, over)
        try:
            restarts = [
                pool.submit(_restart_each, cluster.web, webs),
                pool.submit(_restart_each, cluster.worker, workers),
            ]
            for restart in restarts:
                restart.result()
        finally:
            over.set()
            load.result()

    counts = cluster.until_quiet(within=120)
    print(counts, f"{len(client.asked)} asked to stop")
    assert client.problems == []
    records = assert_books_balance(cluster, started=client.started, asked=client.asked)
    errors = set()
    for record in records:
        id = str(record.root_id)
        if record.status == "stopped":
            assert id in client.asked
        if record.status == "error" and record.parent_id is None:
            assert record.error is not None
            errors.add((record.agent, record.error["code"]))
    for record in records:
        if str(record.pk) in client.accepted and record.status != "stopped":
            assert record.stop_finished_first
    allowed = {"worker_shutdown", "worker_lost"}
    own = {("witness-failure", "unhandled_exception")}
    assert {code for agent, code in errors - own if agent != "witness-tree"} <= allowed
    assert not {agent for agent, _ in errors} & {"witness-again"}, "it may be requeued"
    for node in cluster.nodes:
        assert "Traceback" not in node.own_output, node.own_output


def _load(
    client: Client, chance: random.Random, pool: ThreadPoolExecutor, over: threading.Event
) -> None:
    """Start runs at a steady pace until the time and the deploy are over; stop one in ten."""
    names = [(agent, input) for agent, input, share in MIX for _ in range(share)]
    started_at = time.monotonic()
    for number in itertools.count():
        due = started_at + number / PER_SECOND
        if over.is_set() and due > started_at + SECONDS:
            return
        time.sleep(max(0.0, due - time.monotonic()))  # a steady pace matters here
        agent, input = chance.choice(names)
        pool.submit(_one, client, agent, input, chance.random() < 0.1)


def _one(client: Client, agent: str, input: dict[str, Any], is_stopped: bool) -> None:
    id = client.start(agent, input)
    if id is not None and is_stopped:
        client.stop(id)


def _restart_each(start: Callable[[], Any], nodes: list[Any]) -> None:
    """Replace each process by a new one: the new one first, as deploys do."""
    old = list(nodes)
    for place, node in enumerate(old):
        nodes[place] = start()
        node.terminate()
    for node in old:
        assert node.wait(60) == 0, node.output
