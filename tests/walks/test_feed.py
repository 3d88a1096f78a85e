"""The whole live feed: a server process, and many readers over real connections."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.server import Installation, Server, eventually
from tests.support.sockets import messages_of, open_and_do_not_read, open_socket

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 120

_EVENT = re.compile(rb"event: (\w+)\n(?:id: (\S+)\n)?data: (.*)\n\n")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _installation(tmp_path_factory.mktemp("feed")).serving() as server:
        yield server


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Return one of its own: the worker of ``served`` would claim runs that a test restarts."""
    return _installation(tmp_path)


def _installation(folder: Path) -> Installation:
    return Installation(folder, RUNS_DRAIN_SECONDS="0")


class Watcher:
    """Follows one run over one wire, and disconnects at times."""

    def __init__(self, server: Server, run: str, wire: str, *, breaks: int = 0) -> None:
        self.url = f"{server.url}/runs/{run}/events"
        self.socket = f"ws{server.url[4:]}/ws/runs/{run}"
        self.headers = {"Authorization": server.client.headers["Authorization"]}
        self.wire = wire
        self.seqs: list[int] = []
        self.breaks = breaks
        self.closed: int | None = None
        self.end: dict[str, Any] | None = None

    async def follow(self, client: httpx.AsyncClient) -> None:
        while self.end is None:
            events = self.over_sse(client) if self.wire == "sse" else self.over_socket()
            until = len(self.seqs) + random.randint(1, 700) if self.breaks else 10**9
            async for type, data in events:
                if type == "trace":
                    self.seqs.append(data["seq"])
                elif type == "end":
                    self.end = data
                if len(self.seqs) >= until and self.end is None:
                    self.breaks -= 1
                    break
            await events.aclose()

    async def over_socket(self) -> AsyncIterator[tuple[str, Any]]:
        seen = self.seqs[-1] if self.seqs else 0
        view = "&view=page" if self.wire == "page" else ""
        address = f"{self.socket}?after={seen}{view}"
        async with connect(
            address,
            additional_headers=self.headers,
            max_size=None,
            compression=None,
            open_timeout=PATIENCE_SECONDS,
            close_timeout=0.1,  # in a burst it would wait ten seconds for the closing handshake
        ) as ws:
            try:
                while True:
                    message = json.loads(await ws.recv())
                    for frame in message.get("frames", [message]):
                        yield frame["type"], frame.get("event") or frame.get("run")
            except ConnectionClosed:
                self.closed = ws.close_code

    async def over_sse(self, client: httpx.AsyncClient) -> AsyncIterator[tuple[str, Any]]:
        headers = self.headers | {"Accept": "text/event-stream"}
        if self.seqs:
            headers["Last-Event-ID"] = str(self.seqs[-1])
        async with client.stream("GET", self.url, headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            rest = b""
            async for piece in answer.aiter_raw():
                whole, cut, rest = (rest + piece).rpartition(b"\n\n")
                for type, id, data in _EVENT.findall(whole + cut):
                    if type == b"trace":
                        assert id.isdigit()
                        yield "trace", {"seq": int(id)}
                    else:
                        yield type.decode(), json.loads(data)
            self.closed = 1000


def _client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=limits)


@pytest.mark.thorough
async def test_a_hundred_readers_get_each_of_two_thousand_events_once(served: Server) -> None:
    run = await asyncio.to_thread(served.start, "site-flood", lines=2_000, pause=0.25)
    chance = random.Random(1)
    watchers = [
        Watcher(served, run, ("sse", "page", "socket", "page")[n % 4], breaks=2 * (n % 5 == 0))
        for n in range(100)
    ]

    async def come(watcher: Watcher, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(chance.random() * 5)
        await watcher.follow(client)

    async with _client() as client, asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(come(watcher, client) for watcher in watchers))
    final = await asyncio.to_thread(served.run, run)
    assert final["last_seq"] >= 2_002  # on a busy machine, the log says that the loop was blocked
    for watcher in watchers:
        assert watcher.seqs == list(range(1, final["last_seq"] + 1)), watcher.wire
        assert watcher.closed == 1000
        assert {**(watcher.end or {}), "input": final["input"]} == final


def test_a_restart_disconnects_all_readers_at_once_and_loses_nothing(
    installation: Installation,
) -> None:
    with installation.serving() as server:
        port = server.port
        run = server.start("site-again", key=f"restart-{time.time()}")
        server.until_it_has_called(run, "data_store.set")
        seqs, codes, sse = asyncio.run(_watch_until_disconnected(server, run))
        assert codes == [1012, 1012]
        assert sse == "ended"
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.output
    with installation.serving(port) as server:
        watcher = Watcher(server, run, "socket")
        watcher.seqs = seqs

        async def follow_to_end() -> None:
            async with _client() as client, asyncio.timeout(PATIENCE_SECONDS):
                await watcher.follow(client)

        asyncio.run(follow_to_end())
        final = server.run(run)
        assert final["status"] == "success"
        assert watcher.seqs == list(range(1, final["last_seq"] + 1))
        assert watcher.end == final


async def _watch_until_disconnected(server: Server, run: str) -> tuple[list[int], list[int], str]:
    seqs: list[int] = []
    async with _client() as client, asyncio.timeout(PATIENCE_SECONDS):
        one, feed = (
            await open_socket(server, f"/ws/runs/{run}"),
            await open_socket(server, "/ws/runs"),
        )
        headers = dict(server.client.headers) | {"Accept": "text/event-stream"}
        async with client.stream("GET", f"{server.url}/runs/{run}/events", headers=headers) as sse:
            lines = sse.aiter_lines()
            await anext(lines)
            while not seqs:
                message = json.loads(await one.recv())
                seqs += [message["event"]["seq"]] if message["type"] == "trace" else []
            server.terminate()
            async for message in messages_of(one):
                seqs += [message["event"]["seq"]] if message["type"] == "trace" else []
            async for _ in messages_of(feed):
                pass
            async for _ in lines:
                pass
        return seqs, [one.close_code or 0, feed.close_code or 0], "ended"


def test_without_redis_another_processs_run_is_followed_by_polling(
    installation: Installation,
) -> None:
    """The two processes share only a file."""
    with (
        installation.serving(RUNS_EMBEDDED_WORKER="0") as server,
        installation.working(),
    ):
        run = server.start("site-flood", lines=300, pause=0.2)
        watchers = [Watcher(server, run, wire, breaks=1) for wire in ("sse", "page", "socket")]

        async def follow() -> None:
            async with _client() as client, asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(watcher.follow(client) for watcher in watchers))

        asyncio.run(follow())
        final = server.run(run)
    assert final["status"] == "success"
    for watcher in watchers:
        assert watcher.seqs == list(range(1, final["last_seq"] + 1)), watcher.wire


@pytest.mark.thorough
def test_a_reader_that_does_not_read_delays_no_shutdown(installation: Installation) -> None:
    with installation.serving() as server:
        run = server.start("site-flood", lines=300, size=20_000)
        server.until(run, "success")
        stuck = open_and_do_not_read(server, run)
        try:
            server.terminate()
            assert server.process.wait(30) == 0
        finally:
            stuck.close()


def test_readers_that_left_leave_nothing_open(served: Server) -> None:
    """Descriptors return to their number: no connection, file or thread is kept."""

    async def connect_and_leave(run: str) -> None:
        async with _client() as client, asyncio.timeout(PATIENCE_SECONDS):
            sockets = [await open_socket(served, f"/ws/runs/{run}?tree=1") for _ in range(30)]
            headers = dict(served.client.headers) | {"Accept": "text/event-stream"}
            for _ in range(10):
                url = f"{served.url}/runs/{run}/events?tree=1"
                async with client.stream("GET", url, headers=headers) as sse:
                    await anext(sse.aiter_lines())
            for number, ws in enumerate(sockets):
                if number % 2:
                    ws.transport.abort()
                else:
                    await ws.close()

    run = served.start("site-tree", width=2)
    served.until_it_works(run)
    asyncio.run(connect_and_leave(run))
    folder = Path(f"/proc/{served.process.pid}")
    settled = _count(folder)
    asyncio.run(connect_and_leave(run))
    eventually(lambda: _count(folder) <= settled + 2, "descriptors and threads are given back")
    served.client.post(f"/runs/{run}/stop")


def _count(folder: Path) -> int:
    return len(list((folder / "fd").iterdir())) + len(list((folder / "task").iterdir()))
