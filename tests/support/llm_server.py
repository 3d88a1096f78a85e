"""A real HTTP server on 127.0.0.1 that speaks the OpenAI protocol, correctly or not, as configured.

It has its own thread and loop. So tests with and without a loop can use it, and a test can see the
requests that arrived while the code under test is blocked.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

T = TypeVar("T")
Headers = Mapping[str, str | None]

WAIT_SECONDS = 10.0
TEXT = "The ship left the harbour at dawn. Nobody saw her again."


@dataclass
class Request:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        value = json.loads(self.raw)
        assert isinstance(value, dict)
        return value


@dataclass
class Answer:
    """How to answer one request for a completion.

    Attributes:
        text: the model's text, streamed in pieces of one word.
        pieces: the same, in these pieces.
        chunks: objects, raw texts or raw bytes to stream instead; a plain reply is the first of
            them. An iterator may be endless, and answers one request.
        tool_calls: as in a message.
        usage: None leaves it out.
        status, headers, body: of an answer that is not a completion. A header None is left out.
        pause: seconds between two pieces.
        plain: answer JSON to a request for a stream.
        drop_after: cut the connection after so many chunks; 0 is before the head of the answer.
        reset: cut it by a reset, in place of the end of the body.
        done: whether [DONE] ends the stream.
        rest: seconds before the end of the body.
        until_close: end the body by closing the connection, not by a chunk of size 0.
    """

    text: str = TEXT
    pieces: list[str] | None = None
    chunks: Iterable[Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 21, "completion_tokens": 13, "total_tokens": 34}
    )
    model: str = ""
    finish_reason: str | None = "stop"
    status: int = 200
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes | str | dict[str, Any] | None = None
    pause: float = 0.0
    plain: bool = False
    drop_after: int | None = None
    reset: bool = False
    done: bool = True
    rest: float = 0.0
    until_close: bool = False


class ClientGone(Exception):
    pass


class LLMServer:
    """``with LLMServer() as server:`` and then ``server.base_url``.

    ``answer`` answers every request. The answers in ``answers`` come first, once each.

    Besides completions it serves ``GET /v1/models``, ``/redirect?to=URL``, ``/status/404``,
    ``/chunks/5`` (a body in chunks), ``/events?label=`` (an endless stream of events) and
    ``/cookie``. Any other GET answers hello.

    Args:
        tls: makes it an https server.

    Attributes:
        requests: all requests that arrived, oldest first.
        completed_count: replies that were sent to their end.
        aborted_count: replies that the client didn't wait for.
        opened_count, closed_count: connections.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answer = Answer()
        self.answers: deque[Answer] = deque()
        self.requests: list[Request] = []
        self.completed_count = 0
        self.aborted_count = 0
        self.opened_count = 0
        self.closed_count = 0
        self.port = 0
        self.host = "127.0.0.1"
        self._held_at: str | None = None
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._released.set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="llm-server", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()

    # --- for the test, from any thread -------------------------------------------------------

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def request_count(self) -> int:
        return len(self.requests)

    @property
    def open_count(self) -> int:
        return self.opened_count - self.closed_count

    def hold(self, at: str = "start") -> None:
        """Accept requests but hold the answers, from the start or after their first piece."""
        assert at in ("start", "middle")
        self._held_at = at
        self._run(self._set_released(False))

    def release(self) -> None:
        """Release the held answers and all later ones."""
        self._held_at = None
        self._run(self._set_released(True))

    def let_go(self, until: str = "start") -> None:
        """Release the held answers, and hold all that reach ``until`` afterwards.

        From "start" to "start": the answers that are held now are sent to their end.
        """
        assert until in ("start", "middle")
        self._run(self._pulse(until))

    def wait(self, condition: Callable[[], bool], what: str = "it") -> None:
        """Wait in this thread until ``condition()``; it is checked after each change."""
        with self._changed:
            if not self._changed.wait_for(condition, WAIT_SECONDS):
                raise AssertionError(f"waited {WAIT_SECONDS:g} s for {what}: {self!r}")

    def wait_for_requests(self, count: int) -> None:
        self.wait(lambda: self.request_count >= count, f"{count} requests")

    async def until(self, condition: Callable[[], bool], what: str = "it") -> None:
        """As ``wait``, on a loop."""
        await asyncio.to_thread(self.wait, condition, what)

    async def until_requests(self, count: int) -> None:
        await self.until(lambda: self.request_count >= count, f"{count} requests")

    def __repr__(self) -> str:
        return (
            f"<LLMServer requests {self.request_count}, completed {self.completed_count},"
            f" aborted {self.aborted_count}, connections {self.opened_count} opened and"
            f" {self.closed_count} closed>"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_SECONDS), "the server did not start"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)

    # --- on the server's own loop ------------------------------------------------------------

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._connected, self.host, 0, ssl=self._tls)
        server = self._loop.run_until_complete(serving)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()  # close() would wait for clients that have stopped reading
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            pending = asyncio.all_tasks(self._loop)
            self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self._loop.run_until_complete(asyncio.sleep(0))  # the sockets close a turn later
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _set_released(self, released: bool) -> None:
        if released:
            self._released.set()
        else:
            self._released.clear()

    async def _pulse(self, at: str) -> None:
        # In one step of the loop, so that no answer passes the next place at which it must be held.
        self._held_at = at
        self._released.set()
        self._released.clear()

    def _count(self, name: str) -> None:
        with self._changed:
            setattr(self, name, getattr(self, name) + 1)
            self._changed.notify_all()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count("opened_count")
        self._writers.add(writer)
        try:
            while True:
                request = await _read_request(reader)
                if request is None:
                    break
                with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                try:
                    keep = await self._answer_unless_gone(request, reader, writer)
                except (ClientGone, OSError):
                    self._count("aborted_count")
                    break
                self._count("completed_count")
                if not keep or request.headers.get("connection", "").lower() == "close":
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the last one: the server is stopping
        finally:
            writer.close()
            self._writers.discard(writer)
            self._count("closed_count")

    async def _answer_unless_gone(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        answering = asyncio.ensure_future(self._respond(request, writer))
        gone = asyncio.ensure_future(reader.read(1))  # clients don't pipeline
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        late = gone if answering.done() else answering
        late.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)
        if late is answering:
            raise ClientGone
        return answering.result()

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            answer = self.answers.popleft() if self.answers else self.answer
            return await self._complete(request, answer, writer)
        await self._hold("start")
        return await self._respond_otherwise(request, writer)

    async def _hold(self, at: str) -> None:
        if self._held_at == at:
            await self._released.wait()

    async def _respond_otherwise(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        address = urlsplit(request.path)
        path = address.path
        if path == "/redirect":
            where = parse_qs(address.query)["to"][0]
            await _send(writer, 302, {"Location": where}, b"")
        elif path.startswith("/status/"):
            await _send(writer, int(path.rpartition("/")[2]), {}, b"as you wished")
        elif path == "/cookie":
            seen = request.headers.get("cookie", "")
            await _send(writer, 200, {"Set-Cookie": "taste=sweet; Path=/"}, seen.encode())
        elif path.startswith("/chunks/"):
            await _send_head(writer, 200, {"Transfer-Encoding": "chunked"})
            for number in range(int(path.rpartition("/")[2])):
                await _send_chunk(writer, f"chunk {number}\n".encode())
                if not number:
                    await self._hold("middle")
            await _send_chunk(writer, b"")
        elif path == "/events":
            label = parse_qs(address.query).get("label", ["text/event-stream"])[0]
            head = {"Content-Type": label, "Transfer-Encoding": "chunked"}
            await _send_head(writer, 200, head)
            while True:
                await _send_chunk(writer, b"data: tick\n\n")
                await self._hold("middle")
                await asyncio.sleep(0.01)
        elif path.endswith("/models"):
            models = {"object": "list", "data": [{"id": "test-model", "object": "model"}]}
            await _send(writer, 200, _JSON, json.dumps(models).encode())
        else:
            await _send(writer, 200, {"Content-Type": "text/plain"}, b"hello")
        return True

    async def _complete(
        self, request: Request, answer: Answer, writer: asyncio.StreamWriter
    ) -> bool:
        await self._hold("start")
        if answer.drop_after == 0:
            return False
        if answer.status != 200 or answer.body is not None:
            body = answer.body if answer.body is not None else {"error": {"message": "no"}}
            raw = json.dumps(body) if isinstance(body, dict) else body
            raw = raw.encode() if isinstance(raw, str) else raw
            await _send(writer, answer.status, {**_JSON, **answer.headers}, raw)
            return True
        model = answer.model or request.body.get("model", "")
        if answer.plain or not request.body.get("stream"):
            completion = _completion(answer, model)
            if answer.chunks is not None:
                completion = next(iter(answer.chunks))
            await _send(writer, 200, {**_JSON, **answer.headers}, json.dumps(completion).encode())
            return True
        return await self._stream(request, answer, model, writer)

    async def _stream(
        self, request: Request, answer: Answer, model: str, writer: asyncio.StreamWriter
    ) -> bool:
        options = request.body.get("stream_options") or {}
        chunks = answer.chunks
        if chunks is None:
            chunks = _chunks(answer, model, bool(options.get("include_usage")))
        head: Headers = {"Content-Type": "text/event-stream; charset=utf-8", **answer.headers}
        if answer.until_close:
            head["Connection"] = "close"
            send: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]] = _send_raw
        else:
            head["Transfer-Encoding"] = "chunked"
            send = _send_chunk
        await _send_head(writer, 200, head)
        for number, chunk in enumerate(chunks, 1):
            data = chunk if isinstance(chunk, str | bytes) else f"data: {json.dumps(chunk)}\n\n"
            await send(writer, data.encode() if isinstance(data, str) else data)
            if number == answer.drop_after:
                return False
            if number == 2:  # the first says only the role
                await self._hold("middle")
            if answer.pause:
                await asyncio.sleep(answer.pause)
        if answer.done:
            await send(writer, b"data: [DONE]\n\n")
        await asyncio.sleep(answer.rest)
        if answer.reset:
            _reset(writer)
        if answer.reset or answer.until_close:
            return False
        await send(writer, b"")
        return True


_JSON: Headers = {"Content-Type": "application/json"}


def _completion(answer: Answer, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    completion: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
    }
    if answer.usage:
        completion["usage"] = answer.usage
    return completion


def _chunks(answer: Answer, model: str, include_usage: bool) -> list[dict[str, Any]]:
    pieces = answer.pieces
    if pieces is None:
        pieces = [f"{word} " for word in answer.text.split()]
        pieces[-1] = pieces[-1].rstrip()
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces]
    for index, call in enumerate(answer.tool_calls or []):
        deltas.append({"tool_calls": [{"index": index, **call}]})
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if answer.finish_reason:
        choices.append({"index": 0, "delta": {}, "finish_reason": answer.finish_reason})
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    chunks: list[dict[str, Any]] = [{**head, "choices": [choice]} for choice in choices]
    if include_usage and answer.usage:
        chunks.append({**head, "choices": [], "usage": answer.usage})
    return chunks


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, raw)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the end of the connection be a reset, which loses nothing that the client has read."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _send(writer: asyncio.StreamWriter, status: int, headers: Headers, body: bytes) -> None:
    await _send_head(writer, status, {**headers, "Content-Length": str(len(body))})
    await _send_raw(writer, body)


async def _send_head(writer: asyncio.StreamWriter, status: int, headers: Headers) -> None:
    lines = [f"HTTP/1.1 {status} As Told"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    await _send_raw(writer, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


async def _send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    await _send_raw(writer, b"%x\r\n%s\r\n" % (len(data), data))


async def _send_raw(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
