"""arq: jobs in Redis, one event loop; a stop is a cancellation that the worker polls for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any

import arq
from arq.connections import RedisSettings
from arq.jobs import Job, JobStatus

from bench.peers import jobs

_REDIS = RedisSettings.from_dsn(os.environ["PEERS_REDIS"])


async def _nothing() -> None:
    """An abort cancels the task; a check is the await itself."""


async def first(context: dict[str, Any], key: str) -> None:
    await jobs.first_line(key)


async def loop(context: dict[str, Any], key: str) -> None:
    await jobs.waits(key, 0.001, _nothing)


async def wait(context: dict[str, Any], key: str) -> None:
    await jobs.waits(key, 1.0, _nothing)


class adapter:
    most_in_flight = 10_000
    has_records = True
    has_threads = False
    checks = False

    def prepare(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pool = self._run(arq.create_pool(_REDIS))

    def start(self, job: str, key: str) -> Any:
        return self._run(self._pool.enqueue_job(job, key))

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            return list(await asyncio.gather(*(self._pool.enqueue_job(job, key) for key in keys)))

        return self._run(all_of_them())

    def stop(self, id: Any) -> None:
        self.stop_many([id])

    def stop_many(self, ids: Sequence[Any]) -> None:
        # What Job.abort() does before it waits for the result.
        names = {job.job_id: 0 for job in ids}
        self._run(self._pool.zadd("arq:abort", names))

    def is_over(self, id: Job) -> bool:
        return self._run(id.status()) in {JobStatus.complete, JobStatus.not_found}

    def close(self) -> None:
        self._run(self._pool.aclose())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)


def work(concurrency: int) -> None:
    arq.run_worker(
        {  # type: ignore[arg-type]
            "functions": [first, loop, wait],
            "redis_settings": _REDIS,
            "max_jobs": concurrency,
            "allow_abort_jobs": True,
            "job_timeout": 600,
        }
    )
