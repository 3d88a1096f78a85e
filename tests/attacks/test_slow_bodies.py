"""Clients that send a request slowly, or never to its end, over real connections."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from django.http import HttpRequest, JsonResponse
from django.urls import path

from runs.asgi import bodies
from runs.asgi.handler import Handler
from runs.ops import http_protocol
from runs.ops.serving import configuration

SECONDS = 10.0
LIMIT = 0.5  # of the head and of the body, instead of twenty seconds
POST = b"POST /echo HTTP/1.1\r\nHost: testserver\r\nContent-Length: 10\r\n"

called: list[str] = []


def echo(request: HttpRequest) -> JsonResponse:
    called.append(threading.current_thread().name)
    return JsonResponse({"length": len(request.body)})


echo.csrf_exempt = True  # type: ignore[attr-defined]
urlpatterns = [path("echo", echo)]


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/long":  # an answer that begins at once and takes its time
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(4):
            await send({"type": "http.response.body", "body": b"part ", "more_body": True})
            await asyncio.sleep(LIMIT / 2)
        await send({"type": "http.response.body", "body": b"whole"})
    else:
        await Handler()(scope, receive, send)


class Client:
    """A connection on which a test writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def trickle(self, data: bytes, pause: float) -> None:
        """Send a byte at a time, until the server closes the connection."""
        try:
            for at in range(len(data)):
                await self.send(data[at : at + 1])
                await asyncio.sleep(pause)
        except ConnectionError:
            pass

    async def answer(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def until(self, part: bytes) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self._reader.readuntil(part)

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
async def connect(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Any]]:
    settings.ROOT_URLCONF = __name__
    monkeypatch.setattr(bodies, "_BODY_SECONDS", LIMIT)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", LIMIT)
    called.clear()
    config = configuration(f"{__name__}.application")
    config.lifespan = "off"
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    clients: list[Client] = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection(*listener.getsockname()))
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()
    server.should_exit = True
    await serving


async def test_a_head_that_is_never_whole_ends_the_connection(connect: Any) -> None:
    silent, half, trickling = [await connect() for _ in range(3)]
    await half.send(b"GET /echo HTTP/1.1\r\nHost: testserver\r\nX-A: ")
    sending = asyncio.create_task(
        trickling.trickle(b"GET /echo HTTP/1.1\r\nX: " + b"a" * 1000, 0.02)
    )
    assert await silent.answer() == b"", "there was no request, so there is no answer"
    assert (await half.answer()).startswith(b"HTTP/1.1 400 ")
    # A client that still sends may see the end of the connection instead of the answer.
    assert (await trickling.answer())[:13] in {b"HTTP/1.1 400 ", b""}
    await sending
    assert called == []


async def test_a_head_without_an_end_is_not_kept(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", SECONDS)
    for begin in (
        b"GET /",
        b"GET /echo HTTP/1.1\r\nX: ",
        b"GET /echo HTTP/1.1\r\n" + b"X: y\r\n" * 9,
    ):
        client = await connect()
        await client.send(begin)
        for _ in range(5):
            await client.send(b"a" * 16_000)
        assert b"400 Bad Request" in await client.answer()
    assert called == []


async def test_a_body_that_is_never_whole_is_408_and_takes_no_thread(connect: Any) -> None:
    half, trickling, chunked = [await connect() for _ in range(3)]
    await half.send(POST + b"\r\nhalf")
    await chunked.send(
        POST.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"\r\n3\r\nabc"
    )
    await trickling.send(POST.replace(b"10", b"1000") + b"\r\n")
    sending = asyncio.create_task(trickling.trickle(b"a" * 900, 0.01))
    for client in (half, trickling, chunked):
        head, _, body = (await client.answer()).partition(b"\r\n\r\n")
        if client is trickling and not head:
            continue  # as above
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "request_timeout"' in body
    await sending
    assert called == [], "no view and no thread began"


async def test_a_body_that_is_too_large_is_not_discarded_for_ever(
    connect: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RUNS = {"MAX_INPUT_BYTES": 1}
    monkeypatch.setattr(bodies, "_MARGIN_BYTES", 0)
    client = await connect()
    await client.send(POST + b"\r\nhalf")
    assert (await client.answer()).startswith(b"HTTP/1.1 413 ")


async def test_a_client_in_time_is_served_again_and_again(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BODY_SECONDS", SECONDS)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", SECONDS)
    client = await connect()
    for _ in range(3):
        for part in (POST[:20], POST[20:] + b"\r\n", b"01234", b"56789"):
            await client.send(part)
            await asyncio.sleep(0.01)
        await client.until(b'{"length": 10}')
    await client.send((POST + b"\r\n0123456789") * 2)  # two at once
    for _ in range(2):
        await client.until(b'{"length": 10}')
    assert len(called) == 5


async def test_an_answer_may_take_longer_whatever_comes_after_the_request(connect: Any) -> None:
    async def ask(rest: bytes) -> bytes:
        client = await connect()
        await client.send(b"GET /long HTTP/1.1\r\nHost: testserver\r\n\r\n")
        await client.until(b"part")
        await client.send(rest)
        answer: bytes = await client.until(b"0\r\n\r\n")
        return answer

    for answer in await asyncio.gather(ask(b""), ask(b"\r\n"), ask(b"GET /ec")):
        assert b"whole" in answer


async def test_a_large_body_has_longer(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_LEAST_BYTES_PER_SECOND", 1)
    client = await connect()
    await client.send(POST + b"\r\n01234")
    await asyncio.sleep(1.3 * LIMIT)  # five bytes have earned five seconds
    await client.send(b"56789")
    await client.until(b'{"length": 10}')
