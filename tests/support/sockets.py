"""Sockets of the live feed, as a program opens them, and as one that doesn't read."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from .server import PATIENCE_SECONDS, Server

__all__ = ["messages_of", "open_and_do_not_read", "open_socket", "read_all"]


async def open_socket(server: Server, path: str, **headers: str) -> ClientConnection:
    given = {"Authorization": server.client.headers["Authorization"], **headers}
    return await connect(
        f"ws{server.url[4:]}{path}",
        additional_headers=given,
        max_size=None,
        open_timeout=PATIENCE_SECONDS,
    )


async def messages_of(ws: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Give what comes until it is closed, with whatever code."""
    while True:
        try:
            yield json.loads(await ws.recv())
        except ConnectionClosed:
            return


def open_and_do_not_read(server: Server, run: str) -> socket.socket:
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


def read_all(raw: socket.socket) -> list[int]:
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
        if first & 0x0F == 9:  # a client that reads at all answers pings
            raw.sendall(struct.pack("!BB", 0x8A, 0x80 | length) + b"\0\0\0\0" + payload)
        if first & 0x0F == 1:
            message = json.loads(payload)
            if message["type"] == "trace":
                seqs.append(message["event"]["seq"])
