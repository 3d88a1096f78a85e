"""A worker that may open few files: it claims only what it can hold, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runs.models import RunRecord
from tests.support.server import Installation, Server, eventually

pytestmark = pytest.mark.slow


class Holder:
    """An HTTP server that holds all requests until the test releases them."""

    def __init__(self) -> None:
        self.url = ""
        self.held = self.most = 0
        self._loop = asyncio.new_event_loop()
        self._release = asyncio.Event()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Holder]:
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(ready,))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            self.release()
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join(10)

    def release(self) -> None:
        """Answer all waiting requests, and all later ones."""
        self._loop.call_soon_threadsafe(self._release.set)

    def _run(self, ready: threading.Event) -> None:
        try:
            self._loop.run_until_complete(self._main(ready))
        finally:
            self._loop.close()

    async def _main(self, ready: threading.Event) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=2000)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        ready.set()
        async with server:
            await self._end.wait()
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=5)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await self._release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up
        finally:
            self.held -= 1
            writer.close()


def statuses(site: Installation) -> dict[str, int]:
    rows = site.database.execute("SELECT status, COUNT(*) FROM runs_runrecord GROUP BY status")
    return dict(rows)


def queue_many(site: Installation, server: Server, agent: str, copies: int, **input: Any) -> None:
    """Start one run by the API, and queue copies of it."""
    first = uuid.UUID(server.start(agent, **input))
    ids = [uuid.uuid4() for _ in range(copies - 1)]
    others = ", ".join(
        field.column
        for field in RunRecord._meta.concrete_fields
        if field.column not in ("id", "root_id")
    )
    site.database.execute_many(
        f"INSERT INTO runs_runrecord (id, root_id, {others})"
        f" SELECT %s, %s, {others} FROM runs_runrecord WHERE id = %s",
        [(id, id, first) for id in ids],
    )
    site.database.execute_many(
        "INSERT INTO runs_runinput (run_id, value, size_bytes)"
        " SELECT %s, value, size_bytes FROM runs_runinput WHERE run_id = %s",
        [(id, first) for id in ids],
    )


@pytest.mark.parametrize(
    ("limit", "agent"),
    [
        pytest.param(512, "site-hold", marks=pytest.mark.thorough),
        (256, "site-hold"),
        (256, "site-hold-in-thread"),
    ],
)
def test_the_worker_claims_what_it_can_hold(limit: int, agent: str, tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_EMBEDDED_WORKER="0", RUNS_DRAIN_SECONDS="1")
    with Holder().serving() as holder, site.serving() as server:
        loop = server.start("site-loop")
        queue_many(site, server, agent, limit // 2, url=holder.url)
        with site.working(descriptors=limit) as worker:
            ((capacity, limited_by),) = site.database.execute(
                "SELECT capacity, limited_by FROM runs_workerrecord WHERE lost_at IS NULL"
            )
            assert limited_by == f"{limit:,} file descriptors"
            assert limit // 8 < capacity < limit // 2
            eventually(lambda: holder.held == capacity - 1, "as many as its capacity", 60)
            assert statuses(site)["running"] == capacity
            assert server.client.post(f"/runs/{loop}/stop").status_code == 202
            assert server.until(loop, "stopped")["stop"]["observed_at"]
            holder.release()
            eventually(lambda: statuses(site) == {"success": limit // 2, "stopped": 1}, "", 120)
            assert holder.most <= capacity
            assert worker.output.count("runs at a time, not 1000") == 1
            assert "Too many open files" not in worker.output


@pytest.mark.thorough
def test_agents_that_open_more_than_the_limit_fail_and_nothing_hangs(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_EMBEDDED_WORKER="0", RUNS_DRAIN_SECONDS="1")
    with Holder().serving() as holder, site.serving() as server:
        loop = server.start("site-loop")
        queue_many(site, server, "site-hold", 60, url=holder.url, count=8)
        with site.working(descriptors=256) as worker:
            server.until(loop, "running", within=60)
            eventually(lambda: statuses(site).get("error"), "a run gets no connection", 60)
            assert server.client.post(f"/runs/{loop}/stop").status_code == 202
            server.until(loop, "stopped")
            holder.release()
            eventually(lambda: not {"queued", "running"} & statuses(site).keys(), "all end", 120)
            assert server.until(server.start("site-trivial", number=3), "success")["result"] == 3
            worker.terminate()
            assert worker.process.wait(40) == 0, worker.output
