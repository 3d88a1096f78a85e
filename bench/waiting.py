"""Many requests that wait for the end of a run, many event streams, and unread feeds."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from .measure import Figure, distribution, single
from .server import Server, serving
from .site import fresh_site
from .subscribers import subscribed

__all__ = ["measure"]

COUNT = int(os.environ.get("BENCH_WAITERS", "2000"))
RUNS = 20
IDLE_SECONDS = 10.0
UNREAD = 20
INPUT_CHARACTERS = 7 * 1024 * 1024
_AT_ONCE = 20
_MOST_SECONDS = 45.0


def measure() -> Iterator[Figure]:
    """The server is one process; the clients are in this one, streams in a third."""
    with fresh_site() as user:
        from rest_framework.authtoken.models import Token

        token = Token.objects.create(user=user).key
        with serving(token) as server:
            yield from asyncio.run(_waiters(server))
        with serving(token) as server:  # a fresh server: freed memory would be used again
            yield from _streams(server)
        with serving(token) as server:
            yield from _unread(server)


async def _waiters(server: Server) -> list[Figure]:
    name = f"{COUNT:,} requests with ?wait=60"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        go = Path(folder) / "go"
        runs = [server.start("bench-signal", path=str(go), count=1) for _ in range(RUNS)]
        for run in runs:
            _until_begun(server, run)  # a stop before that would end it at once
        await _ask(server, runs[0], wait=0)  # what the first request creates for all
        memory, threads = server.resident_kib(), server.thread_count()
        asked_at = time.monotonic()
        waiting: list[asyncio.Task[float]] = []
        for start in range(0, COUNT, _AT_ONCE):
            some = [
                asyncio.create_task(_ask(server, runs[n % RUNS]))
                for n in range(start, min(start + _AT_ONCE, COUNT))
            ]
            waiting += some
            # SQLite lets writers starve that come in crowds.
            while await asyncio.to_thread(server.gauge, "halting_requests_waiting") < len(waiting):
                if time.monotonic() - asked_at > _MOST_SECONDS:
                    raise TimeoutError(f"too slow for {COUNT} waits of a minute: BENCH_WAITERS=500")
                await asyncio.sleep(0.01)
        await asyncio.to_thread(_until_quiet, server)
        each = (server.resident_kib() - memory) / COUNT
        figures = [
            single(f"memory of each of {name}", "KiB", each, count=COUNT),
            single(f"threads for {name}", "", server.thread_count() - threads),
        ]
        if time.monotonic() - asked_at + IDLE_SECONDS < _MOST_SECONDS:
            figures.append(await asyncio.to_thread(_processor, server, name))
        go.touch()
        ended = time.monotonic()
        answered = await asyncio.gather(*waiting)
    delays = [(at - ended) * 1e3 for at in answered]
    note = f"{RUNS} runs end at once; all clients and the server share the machine"
    figures.append(distribution(f"the end to the answer of {name}", "ms", delays, note=note))
    return figures


async def _ask(server: Server, run: str, wait: int = 60) -> float:
    """Stop a run, wait for its end, and return when the answer came."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    lines = (
        f"POST /runs/{run}/stop?wait={wait} HTTP/1.1",
        f"Host: {server.host}",
        f"Authorization: Token {server.token}",
        "Content-Length: 0",
        "Connection: close",
    )
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readline()
    at = time.monotonic()
    rest = await reader.read()
    writer.close()
    if head.split()[1] != (b"200" if wait else b"202"):
        raise RuntimeError(f"the stop was answered with {head!r}: {rest[-1_000:]!r}")
    return at


def _until_begun(server: Server, run: str) -> None:
    """Wait until the agent's code has begun; a run is ``running`` from its claim on."""
    while not server.run(run)["last_seq"]:
        time.sleep(0.02)


def _streams(server: Server) -> Iterator[Figure]:
    run = server.start("bench-loop", pause=5)
    server.until(run, "running")
    with subscribed(server, run, "sse", 1) as subscribers:
        subscribers.until_open()
    memory, threads = server.resident_kib(), server.thread_count()
    name = f"{COUNT:,} event streams"
    with subscribed(server, run, "sse", COUNT) as subscribers:
        subscribers.until_open()
        _until_quiet(server)
        each = (server.resident_kib() - memory) / COUNT
        yield single(f"memory of each of {name}", "KiB", each, count=COUNT)
        yield single(f"threads for {name}", "", server.thread_count() - threads)
        yield _processor(server, name)
    server.stop(run)


def _unread(server: Server) -> Iterator[Figure]:
    """Feeds of a run with a large input, whose readers read nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        go = Path(folder) / "go"
        run = server.start("bench-signal", path=str(go), count=1, text="x" * INPUT_CHARACTERS)
        _until_begun(server, run)  # from then on nothing changes
        for kind in ("sse", "socket"):
            with ExitStack() as feeds:
                feeds.enter_context(_open_unread(server, run, kind))
                memory = server.resident_kib()
                for _ in range(UNREAD):
                    feeds.enter_context(_open_unread(server, run, kind))
                each = (server.resident_kib() - memory) / UNREAD
            name = f"memory of each unread {kind} of a run with a 7 MiB input"
            yield single(name, "KiB", each, count=UNREAD)
        go.touch()
        listed = server.client.get("/runs").content
        yield single("a list with such a run", "KiB", len(listed) / 1024)


def _open_unread(server: Server, run: str, kind: str) -> socket.socket:
    raw = socket.create_connection((server.host, server.port), timeout=60)
    path = f"/runs/{run}/events" if kind == "sse" else f"/ws/runs/{run}"
    upgrade = (
        ["Accept: text/event-stream"]
        if kind == "sse"
        else [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: YmVuY2htYXJrcyBvbmx5IQ==",
            "Sec-WebSocket-Version: 13",
        ]
    )
    head = [f"GET {path} HTTP/1.1", f"Host: {server.host}", f"Authorization: Token {server.token}"]
    raw.sendall("\r\n".join([*head, *upgrade, "", ""]).encode())
    seen = b""
    while b"event: run" not in seen and b'"type":"run"' not in seen:
        seen += raw.recv(4096)
    return raw


def _until_quiet(server: Server) -> None:
    """Wait until the requests that have come are handled."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        taken = server.processor_seconds()
        time.sleep(1)
        if server.processor_seconds() - taken < 0.3:
            return


def _processor(server: Server, name: str) -> Figure:
    started, taken = time.monotonic(), server.processor_seconds()
    time.sleep(IDLE_SECONDS)
    share = (server.processor_seconds() - taken) / (time.monotonic() - started)
    return single(f"processor with {name}", "%", share * 100, note="of one core")
