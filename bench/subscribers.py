"""Many subscribers of one run in a separate process, as cheap as possible.

They count the first bytes of frames and parse nothing. A real client's parser would cost more than
the server that is measured, and both share two cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

from .server import Server

__all__ = ["KINDS", "Kind", "Seen", "Subscribers", "subscribed"]

Kind = Literal["socket", "page", "sse"]
KINDS: tuple[Kind, ...] = ("socket", "page", "sse")

PATIENCE_SECONDS = 180

_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "YmVuY2htYXJrcyBvbmx5IQ==",
}
# Inside JSON texts the quotes are escaped, so no text of an agent looks like these.
_RUN = {"socket": b'{"type":"run",', "page": b'{"type":"run",', "sse": b"event: run\n"}
_TRACE = {"socket": b'{"type":"trace",', "page": b'{"type":"trace",', "sse": b"event: trace\n"}
_END = {"socket": b'{"type":"end",', "page": b'{"type":"end",', "sse": b"event: end\n"}
_STOPPING = b'"status":"stopping"'
_SENT_AT = re.compile(rb'"message":"at (\d+\.\d+)"')  # the agent bench-clock writes this


@dataclass(slots=True)
class Seen:
    """What all subscribers together have seen; instants are from the machine's monotonic clock.

    Attributes:
        started_at: when the first of them started to connect.
        last_at: the last event's arrival.
        delays: from the instant in an event to its arrival, in seconds.
        stopping_at: the arrival of the first frame that says "stopping".
    """

    started_at: float
    events: int = 0
    last_at: float = 0.0
    delays: list[float] = field(default_factory=list)
    stopping_at: float = 0.0


class Subscribers:
    """Connected subscribers, each with its first frame."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def until_open(self) -> None:
        """Wait until each one has its first frame."""
        self._receive("open")

    def until_end(self) -> Seen:
        """Wait until each one has seen the end of the run."""
        seen: Seen = self._receive("end")
        return seen

    def _receive(self, what: str) -> Any:
        if not self._pipe.poll(PATIENCE_SECONDS):
            raise TimeoutError(f"the subscribers have not seen the {what}")
        found, value = self._pipe.recv()
        if found != what:
            raise RuntimeError(f"the subscribers failed: {value}")
        return value


@contextlib.contextmanager
def subscribed(server: Server, run: str, kind: Kind, count: int) -> Iterator[Subscribers]:
    """Connect ``count`` clients from another process; they leave when the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, server.host, server.port, server.token, run, kind, count)
    process = context.Process(target=_main, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        yield Subscribers(ours)
    finally:
        ours.close()  # the other side takes this as the request to leave
        process.join(20)
        if process.is_alive():
            process.terminate()


def _main(pipe: Connection, *arguments: Any) -> None:
    try:
        asyncio.run(_watch(pipe, *arguments))
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(("error", repr(error)))


async def _watch(
    pipe: Connection, host: str, port: int, token: str, run: str, kind: Kind, count: int
) -> None:
    loop = asyncio.get_running_loop()
    seen, request = Seen(time.monotonic()), _request(host, token, run, kind)
    left = asyncio.Event()
    loop.add_reader(pipe.fileno(), left.set)
    all_of_them = []
    for start in range(
        0, count, 50
    ):  # not more at once than the backlog of a listening socket holds
        some = [_Subscriber(kind, request, seen) for _ in range(min(50, count - start))]
        await asyncio.gather(*(loop.create_connection(lambda s=s: s, host, port) for s in some))
        all_of_them += some
    await asyncio.gather(*(one.opened for one in all_of_them))
    pipe.send(("open", None))
    leaving = loop.create_task(left.wait())
    for one in all_of_them:
        await asyncio.wait((one.ended, leaving), return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            break
        one.ended.result()
    else:
        pipe.send(("end", seen))
    for one in all_of_them:
        one.leave()
    leaving.cancel()


def _request(host: str, token: str, run: str, kind: Kind) -> bytes:
    path = {
        "socket": f"/ws/runs/{run}",
        "page": f"/ws/runs/{run}?view=page&tree=1",
        "sse": f"/runs/{run}/events",
    }[kind]
    headers = {"Host": host, "Authorization": f"Token {token}"}
    headers |= {"Accept": "text/event-stream"} if kind == "sse" else _UPGRADE
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


class _Subscriber(asyncio.Protocol):
    """One client: ``opened`` with its first frame, ``ended`` with its last one."""

    def __init__(self, kind: Kind, request: bytes, seen: Seen) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._seen = seen
        self._answer = b"HTTP/1.1 200" if kind == "sse" else b"HTTP/1.1 101"
        self._run, self._trace, self._end = (_Needle(text[kind]) for text in (_RUN, _TRACE, _END))
        self._stopping = _Needle(_STOPPING)
        self._coding = _Chunks() if kind == "sse" else _Frames(self._answer_ping)
        self._is_first = True
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._is_first:
            self._is_first = False
            if not data.startswith(self._answer):
                self.connection_lost(RuntimeError(data[:200]))
                return
        data = self._coding.content(data)
        self._take_events(data, now)
        if self._stopping.count(data) and not self._seen.stopping_at:
            self._seen.stopping_at = now
        if self._run.count(data) and not self.opened.done():
            self.opened.set_result(None)
        if self._end.count(data) and not self.ended.done():
            self.ended.set_result(None)

    def _take_events(self, data: bytes, now: float) -> None:
        events = self._trace.count(data)
        if not events:
            return
        seen = self._seen
        seen.events += events
        seen.last_at = now
        seen.delays += [now - float(at) for at in _SENT_AT.findall(data)]

    def _answer_ping(self, payload: bytes) -> None:
        assert self._transport is not None
        # RFC 6455: a client masks its frames. A mask of zeros changes nothing.
        self._transport.write(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.opened, self.ended):
            if not future.done():
                future.set_exception(error or ConnectionError("the server has closed"))
                future.exception()  # mark as retrieved: the error may concern only the other future

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Chunks:
    """Removes the chunked transfer coding (RFC 9112, section 7.1), and the headers before it."""

    def __init__(self) -> None:
        self._raw = b""
        self._left = 0  # bytes left of the current chunk
        self._ending = b"\r\n\r\n"  # what precedes the next size

    def content(self, data: bytes) -> bytes:
        raw, found = self._raw + data, []
        while raw:
            if self._left:
                piece, raw = raw[: self._left], raw[self._left :]
                self._left -= len(piece)
                found.append(piece)
                continue
            size, line_end, rest = raw.partition(self._ending)[2].partition(b"\r\n")
            if not line_end:
                break
            self._left, self._ending, raw = int(size, 16), b"\r\n", rest
            if not self._left:
                break  # the last one is empty
        self._raw = raw
        return b"".join(found)


class _Frames:
    """Splits WebSocket frames (RFC 6455, section 5.2) after the answer to the handshake.

    The server drops a client that doesn't answer its pings, so ``on_ping`` is called with the
    payload of each ping.
    """

    def __init__(self, on_ping: Callable[[bytes], None]) -> None:
        self._on_ping = on_ping
        self._raw = b""
        self._is_open = False

    def content(self, data: bytes) -> bytes:
        raw, found, at = self._raw + data, [], 0
        if not self._is_open:
            at = raw.find(b"\r\n\r\n") + 4
            if at < 4:
                self._raw = raw
                return b""
            self._is_open = True
        while len(raw) >= at + 2:
            length, start = raw[at + 1], at + 2
            if length > 125:
                start += 2 if length == 126 else 8
                length = int.from_bytes(raw[at + 2 : start], "big")
            if len(raw) < start + length:
                break
            payload = raw[start : start + length]
            if raw[at] == 0x89:
                self._on_ping(payload)
            else:
                found.append(payload)
            at = start + length
        self._raw = raw[at:]
        return b"".join(found)


class _Needle:
    """Counts a text in a stream, also if it is split between two pieces."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._rest = b""

    def count(self, data: bytes) -> int:
        data = self._rest + data
        self._rest = data[-(len(self._text) - 1) :]
        return data.count(self._text)
