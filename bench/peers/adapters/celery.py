"""Celery: jobs in Redis, results in Redis, threads; a stop is AbortableTask's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import celery
from celery.contrib.abortable import AbortableAsyncResult, AbortableTask

from bench.peers import jobs

app = celery.Celery("peers", broker=os.environ["PEERS_REDIS"], backend=os.environ["PEERS_REDIS"])
app.conf.update(task_track_started=True, broker_connection_retry_on_startup=True)


class Stopped(Exception):
    pass


def _look(task: AbortableTask) -> Any:
    def look() -> None:
        if task.is_aborted():
            raise Stopped

    return look


@app.task(name="first")
def first(key: str) -> None:
    jobs.note(key, "first")


@app.task(name="loop", bind=True, base=AbortableTask)
def loop(self: AbortableTask, key: str) -> None:
    jobs.in_steps(key, 0.001, _look(self))


@app.task(name="wait", bind=True, base=AbortableTask)
def wait(self: AbortableTask, key: str) -> None:
    jobs.in_steps(key, 1.0, _look(self))


@app.task(name="checks", bind=True, base=AbortableTask)
def checks(self: AbortableTask, key: str) -> None:
    jobs.check_cost(key, self.is_aborted, 2_000)  # each asks Redis


_TASKS: dict[str, Any] = {"first": first, "loop": loop, "wait": wait, "checks": checks}


class adapter:
    most_in_flight = 1_100  # threads
    has_records = True
    has_threads = True
    checks = True

    def prepare(self) -> None:
        """Do nothing: Redis needs no tables."""

    def start(self, job: str, key: str) -> Any:
        return _TASKS[job].delay(key).id

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        return [self.start(job, key) for key in keys]

    def stop(self, id: Any) -> None:
        AbortableAsyncResult(id, app=app).abort()

    def stop_many(self, ids: Sequence[Any]) -> None:
        for id in ids:
            self.stop(id)

    def is_over(self, id: Any) -> bool:
        # ABORTED is what the stop has written; only the worker writes the others.
        return app.AsyncResult(id).state in {"SUCCESS", "FAILURE", "REVOKED", "ABORTED"}

    def close(self) -> None:
        app.close()


def work(concurrency: int) -> None:
    options = f"worker -P threads -c {concurrency} -l warning --without-gossip --without-mingle"
    app.worker_main(options.split())
