"""dramatiq: jobs in Redis, threads; a stop is dramatiq-abort's exception in the thread.

It keeps no record of a job: what its middleware has written when a job has ended is the nearest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import dramatiq
import dramatiq_abort
import dramatiq_abort.backends
import redis
from dramatiq.brokers.redis import RedisBroker

from bench.peers import jobs

_redis = redis.Redis.from_url(os.environ["PEERS_REDIS"])
broker = RedisBroker(url=os.environ["PEERS_REDIS"])
broker.add_middleware(
    dramatiq_abort.Abortable(backend=dramatiq_abort.backends.RedisBackend(client=_redis))
)
dramatiq.set_broker(broker)


def _nothing() -> None:
    """An abort raises in the thread, wherever it is."""


@dramatiq.actor(max_retries=0)
def first(key: str) -> None:
    jobs.note(key, "first")


@dramatiq.actor(max_retries=0, time_limit=600_000)
def loop(key: str) -> None:
    jobs.in_steps(key, 0.001, _nothing)


@dramatiq.actor(max_retries=0, time_limit=600_000)
def wait(key: str) -> None:
    jobs.in_steps(key, 1.0, _nothing)


_ACTORS: dict[str, Any] = {"first": first, "loop": loop, "wait": wait}


class adapter:
    most_in_flight = 1_100  # threads
    has_records = False
    has_threads = True
    checks = False

    def prepare(self) -> None:
        """Do nothing: Redis needs no tables."""

    def start(self, job: str, key: str) -> Any:
        return _ACTORS[job].send(key).message_id

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        return [self.start(job, key) for key in keys]

    def stop(self, id: Any) -> None:
        dramatiq_abort.abort(id)

    def stop_many(self, ids: Sequence[Any]) -> None:
        for id in ids:
            self.stop(id)

    def is_over(self, id: Any) -> bool:
        raise NotImplementedError

    def close(self) -> None:
        broker.close()


def work(concurrency: int) -> None:
    options = f"-m dramatiq -p 1 -t {concurrency} {__name__}"
    os.execv(sys.executable, [sys.executable, *options.split()])
