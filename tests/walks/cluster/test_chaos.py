"""Kills, freezes, deploys, lost messages and restarts of Redis; then the audit.

``CHAOS_SECONDS=300`` runs longer. ``CHAOS_SEED=...`` repeats the choices (what they affect depends
on the machine).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.support.audit import assert_books_balance
from tests.support.client import Client
from tests.support.cluster import Cluster, MakeCluster, Web, Worker
from tests.support.request_inbox import RequestInbox

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 5)
STEP_SECONDS = 0.25
LEASE_SECONDS = 2


class _Chaos:
    """Does one thing after the other to a cluster, chosen by the seed."""

    def __init__(
        self, cluster: Cluster, client: Client, workers: list[Worker], inbox: RequestInbox
    ) -> None:
        self.cluster = cluster
        self.client = client
        self.workers = workers
        self.inbox = inbox
        self.seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
        self.chance = random.Random(self.seed)
        self.done: Counter[str] = Counter()
        self._frozen: list[tuple[float, Worker]] = []
        self._pool = ThreadPoolExecutor(12)
        self._pending: list[Future[Any]] = []
        self._replacing = threading.Lock()
        self._redis_back_at = 0.0

    def act(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        choices = {
            self.start: 60,
            self.stop: 25,
            self.freeze: 8,
            self.kill: 5,
            self.drain: 4,
            self.kill_web: 2,
            self.restart_redis: 3,
            self.freeze_redis: 3,
        }
        while time.monotonic() < end:
            self._thaw()
            for act in self.chance.choices(list(choices), list(choices.values()), k=3):
                self.done[act.__name__] += 1
                act()
            time.sleep(STEP_SECONDS)

    def end(self) -> None:
        """Resume and restart everything, and wait until all started runs have ended."""
        self._thaw(all=True)
        self.cluster.redis.start()
        for pending in self._pending:
            pending.result(60)
        self._pool.shutdown()

    def start(self) -> None:
        seconds = self.chance.choice([0, 0, 0.3, 1, 3])
        url = self.inbox.url
        agent, input = self.chance.choice(
            [
                ("witness-once", {"seconds": seconds}),
                ("witness-again", {"seconds": seconds}),
                ("witness-caller", {"url": url, "seconds": seconds}),
                ("witness-caller-again", {"url": url, "seconds": seconds}),
                ("witness-talker", {"seconds": seconds}),
                ("witness-swallower", {"seconds": seconds}),
                ("witness-thread", {"seconds": seconds}),
                ("witness-tree", {"seconds": seconds, "width": 3}),
                ("witness-tree", {"seconds": seconds, "depth": 2}),
                ("witness-model", {"questions": 1}),
                ("witness-failure", {"seconds": seconds}),
            ]
        )
        self._do(self.client.start, agent, input)

    def stop(self) -> None:
        recent = list(self.client.started)[-30:]
        if recent:
            how: dict[str, Any] = self.chance.choice(
                [
                    *[{}] * 5,
                    {"mode": "abort"},
                    {"mode": "abort", "abandon_after": 2},
                    {"mode": "abandon"},
                    {"abort_after": 0.5, "abandon_after": 1},
                ]
            )
            self._do(partial(self.client.stop, self.chance.choice(recent), **how))

    def freeze(self) -> None:
        worker = self.chance.choice(self.workers) if self.workers else None
        if worker is not None and all(worker is not frozen for _, frozen in self._frozen):
            worker.pause()
            until = time.monotonic() + self.chance.uniform(0.2, 2 * LEASE_SECONDS)
            self._frozen.append((until, worker))

    def kill(self) -> None:
        self._replace_one(lambda worker: worker.kill())

    def drain(self) -> None:
        self._replace_one(lambda worker: worker.terminate())

    def kill_web(self) -> None:
        self._do(self._replace_web, _lossy(self.chance))

    def restart_redis(self) -> None:
        if time.monotonic() > self._redis_back_at:
            self.cluster.redis.restart()

    def freeze_redis(self) -> None:
        self.cluster.redis.pause()
        self._redis_back_at = time.monotonic() + self.chance.uniform(0.1, 1.5)

    def _thaw(self, *, all: bool = False) -> None:
        now = time.monotonic()
        if all or now > self._redis_back_at:
            self.cluster.redis.resume()
        for until, worker in list(self._frozen):
            if all or now > until:
                self._frozen.remove((until, worker))
                if worker.is_alive:
                    worker.resume()

    def _replace_one(self, end: Callable[[Worker], None]) -> None:
        if self.workers:
            worker = self.chance.choice(self.workers)
            self.workers.remove(worker)
            end(worker)  # a frozen worker that gets SIGTERM drains when it resumes
            self._do(self._add_worker, _lossy(self.chance))

    def _add_worker(self, environment: dict[str, str]) -> None:
        with self._replacing:  # one at a time: a start takes a second of processor time
            self.workers.append(self.cluster.worker(**environment))

    def _replace_web(self, environment: dict[str, str]) -> None:
        with self._replacing:
            fresh: Web = self.cluster.web(**environment)
            old, self.client.webs[0] = self.client.webs[0], fresh
            old.kill()

    def _do(self, work: Any, *arguments: Any) -> None:
        self._pending.append(self._pool.submit(work, *arguments))


def _lossy(chance: random.Random) -> dict[str, str]:
    return {"LOST_MESSAGES": str(chance.choice([0, 0.3, 0.5]))}


def test_the_books_balance_after_random_faults(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS=str(LEASE_SECONDS), RUNS_DRAIN_SECONDS="1")
    with RequestInbox() as inbox:
        webs, workers = cluster.launch(webs=2, workers=3, LOST_MESSAGES="0.3")
        client = Client(webs)
        chaos = _Chaos(cluster, client, workers, inbox)
        print(f"CHAOS_SEED={chaos.seed}")
        try:
            chaos.act(SECONDS)
        finally:
            chaos.end()
        counts = cluster.until_quiet(within=90)
    print(counts, dict(chaos.done))
    assert client.problems == []
    assert_books_balance(cluster, started=client.started, asked=client.asked)
    errors = [line for node in cluster.nodes for line in node.errors()]
    assert [line for line in errors if "was declared lost by another process" not in line] == []
