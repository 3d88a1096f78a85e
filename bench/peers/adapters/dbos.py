"""dbos: workflows in PostgreSQL; a stop is noticed by a workflow's next step."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from typing import Any

from dbos import DBOS, DBOSClient

from bench.peers import jobs

QUEUE = "peers"


def _declare() -> None:
    @DBOS.step(name="look")
    async def look() -> None:
        """A stop is noticed where a step begins."""

    @DBOS.workflow(name="first")
    async def first(key: str) -> None:
        await jobs.first_line(key)

    @DBOS.workflow(name="loop")
    async def loop(key: str) -> None:
        await jobs.waits(key, 0.001, look)

    @DBOS.workflow(name="wait")
    async def wait(key: str) -> None:
        await jobs.waits(key, 1.0, look)


class adapter:
    most_in_flight = 10_000
    has_records = True
    has_threads = False
    checks = False

    def prepare(self) -> None:
        DBOS.migrate(os.environ["PEERS_DB"])
        self._client = DBOSClient(system_database_url=os.environ["PEERS_DB"])

    def start(self, job: str, key: str) -> Any:
        options = {"workflow_name": job, "queue_name": QUEUE, "workflow_id": str(uuid.uuid4())}
        return self._client.enqueue(options, key).get_workflow_id()

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        return [self.start(job, key) for key in keys]

    def stop(self, id: Any) -> None:
        self._client.cancel_workflow(id)

    def stop_many(self, ids: Sequence[Any]) -> None:
        self._client.cancel_workflows(list(ids))

    def is_over(self, id: Any) -> bool:
        status = self._client.retrieve_workflow(id).get_status().status
        return status not in {"ENQUEUED", "PENDING"}

    def close(self) -> None:
        self._client.destroy()


def work(concurrency: int) -> None:
    DBOS(config={"name": "peers", "system_database_url": os.environ["PEERS_DB"]})
    _declare()
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=concurrency)
    threading.Event().wait()
