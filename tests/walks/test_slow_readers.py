"""Readers that are slow, and readers that lose their right, on a real server."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.server import Installation, Server

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 45
LINES = 1_000
LINE_CHARACTERS = 20_000


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("feed"), RUNS_DRAIN_SECONDS="0")


@pytest.fixture(scope="module")
def served(installation: Installation) -> Iterator[Server]:
    with installation.serving() as server:
        yield server


async def test_a_reader_that_does_not_read_slows_nobody_down_and_costs_little(
    served: Server,
) -> None:
    flood = {"lines": LINES, "pause": 0.005, "size": LINE_CHARACTERS}
    run = await asyncio.to_thread(served.start, "site-flood", **flood)
    before = _memory_bytes(served)
    stuck = await asyncio.to_thread(_open_and_do_not_read, served, run)
    async with asyncio.timeout(PATIENCE_SECONDS):
        seen = await _read_along(served, run)
        final = await asyncio.to_thread(served.run, run)
        every = list(range(1, final["last_seq"] + 1))
        assert len(every) >= LINES + 2
        assert seen == every
        # 20 MB went by. What is kept of it has bounds: pages of the log, 16 MB of them at most.
        assert _memory_bytes(served) - before < 150 * 1024 * 1024
        assert await asyncio.to_thread(_read_all, stuck) == every


async def _read_along(server: Server, run: str) -> list[int]:
    ws = await _open(server, f"/ws/runs/{run}?view=page")
    seqs: list[int] = []
    async for message in _messages(ws):
        frames = message.get("frames", [])
        seqs += [frame["event"]["seq"] for frame in frames if frame["type"] == "trace"]
    assert ws.close_code == 1000
    return seqs


def _open_and_do_not_read(server: Server, run: str) -> socket.socket:
    """Shake hands by hand: libraries read ahead."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.settimeout(PATIENCE_SECONDS)
    raw.connect(("127.0.0.1", server.port))
    lines = (
        f"GET /ws/runs/{run} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Authorization: {server.client.headers['Authorization']}",
    )
    raw.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return raw


def _read_all(raw: socket.socket) -> list[int]:
    """Read frames (RFC 6455, 5.2) until the server closes; return the events' numbers."""
    file = raw.makefile("rb")
    seqs = []
    while True:
        first, length = file.read(2)
        if length == 126:
            (length,) = struct.unpack("!H", file.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", file.read(8))
        payload = file.read(length)
        if first & 0x0F == 8:
            assert struct.unpack("!H", payload[:2]) == (1000,)
            raw.close()
            return seqs
        if first & 0x0F == 9:  # whoever reads at all answers pings
            raw.sendall(struct.pack("!BB", 0x8A, 0x80 | length) + b"\0\0\0\0" + payload)
        if first & 0x0F == 1:
            message = json.loads(payload)
            if message["type"] == "trace":
                seqs.append(message["event"]["seq"])


def _memory_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


async def _open(server: Server, path: str, **headers: str) -> ClientConnection:
    given = {"Authorization": server.client.headers["Authorization"], **headers}
    return await connect(
        f"ws{server.url[4:]}{path}",
        additional_headers=given,
        max_size=None,
        open_timeout=PATIENCE_SECONDS,
    )


async def _messages(ws: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Give what comes until it is closed, with whatever code."""
    while True:
        try:
            yield json.loads(await ws.recv())
        except ConnectionClosed:
            return


async def test_a_person_watches_with_a_session_and_is_signed_out(
    installation: Installation, served: Server
) -> None:
    session = await asyncio.to_thread(_sign_in, served, "demo")
    run = await asyncio.to_thread(served.start, "site-loop")
    cookie = {"Cookie": f"sessionid={session.cookies['sessionid']}"}
    path = f"ws{served.url[4:]}/ws/runs/{run}?view=page&tree=1&tz=Europe/Berlin"
    ws = await connect(path, origin=served.url, additional_headers=cookie)
    async with asyncio.timeout(PATIENCE_SECONDS):
        message = json.loads(await ws.recv())
        assert message["type"] == "frames"
        assert "input" not in message["frames"][0]["run"]
        assert message["frames"][0]["words"]["status"]
        await asyncio.to_thread(_sign_out, session, served)
        async for _ in _messages(ws):
            pass
    assert ws.close_code == 4403
    await asyncio.to_thread(session.close)


def _sign_in(server: Server, name: str) -> httpx.Client:
    session = httpx.Client(base_url=server.url, timeout=30, follow_redirects=False)
    session.get("/accounts/login/")
    form = {"username": name, "password": name, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
    assert session.post("/accounts/login/", data=form).status_code == 302
    return session


def _sign_out(session: httpx.Client, server: Server) -> None:
    form = {"csrfmiddlewaretoken": session.cookies["csrftoken"]}
    answer = session.post("/accounts/logout/", data=form, headers={"Origin": server.url})
    assert answer.status_code < 400, answer.text
