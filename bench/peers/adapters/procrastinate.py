"""procrastinate: jobs in PostgreSQL, LISTEN/NOTIFY, no broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import procrastinate

from bench.peers import jobs

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["PEERS_DB"]))


async def _nothing() -> None:
    """An abort cancels the task; a check is the await itself."""


@app.task(name="first")
async def first(key: str) -> None:
    await jobs.first_line(key)


@app.task(name="loop")
async def loop(key: str) -> None:
    await jobs.waits(key, 0.001, _nothing)


@app.task(name="wait")
async def wait(key: str) -> None:
    await jobs.waits(key, 1.0, _nothing)


@app.task(name="checks", pass_context=True)
async def checks(context: procrastinate.JobContext, key: str) -> None:
    jobs.check_cost(key, context.should_abort)


_TASKS: dict[str, Any] = {"first": first, "loop": loop, "wait": wait, "checks": checks}


class adapter:
    most_in_flight = 10_000
    has_records = True
    has_threads = False
    checks = True

    def prepare(self) -> None:
        app.open()
        app.schema_manager.apply_schema()

    def start(self, job: str, key: str) -> Any:
        return _TASKS[job].defer(key=key)

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        return list(_TASKS[job].batch_defer(*({"key": key} for key in keys)))

    def stop(self, id: Any) -> None:
        app.job_manager.cancel_job_by_id(id, abort=True)

    def stop_many(self, ids: Sequence[Any]) -> None:
        for id in ids:  # it has no other way
            self.stop(id)

    def is_over(self, id: Any) -> bool:
        return app.job_manager.get_job_status(id).value not in {"todo", "doing", "aborting"}

    def close(self) -> None:
        app.close()


def work(concurrency: int) -> None:
    async def working() -> None:
        async with app.open_async():
            await app.run_worker_async(concurrency=concurrency)

    asyncio.run(working())
