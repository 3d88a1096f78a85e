"""Guard the requests of aiohttp: each new session gets a middleware.

A request that names middlewares of its own, which then replace the session's, is not guarded.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from agents.exceptions import AgentStopped
from agents.guard import Guard, carried, carrying, current_guard
from agents.tools.http.admission import Admitted, admit
from agents.tools.http.bodies import FINISH_SECONDS, check, forget_open, note_open
from agents.tools.http.decoding import is_event_stream
from agents.tools.http.traceparent import additional_header
from agents.tools.llm.traffic.asked import Asked
from agents.tools.llm.traffic.recognise import asked_of, may_ask

from .replacing import Replacements

__all__ = ["guard_aiohttp"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


def guard_aiohttp(library: Any, replacements: Replacements) -> None:
    """Guard the sessions of ``library``, aiohttp, that are made from now on."""
    session = library.ClientSession
    if "middlewares" not in inspect.signature(session.__init__).parameters:
        logger.warning("aiohttp %s is too old to be guarded; 3.12 is not", library.__version__)
        return
    in_memory = library.payload.BytesPayload

    async def middleware(request: Any, send: Any) -> Any:
        guard = current_guard()
        if guard is None or carrying() is not None:
            return await send(request)
        return await _guarded(guard, request, send, in_memory)

    def with_middleware(original: Any) -> Any:
        def __init__(self: Any, *args: Any, middlewares: Any = (), **options: Any) -> None:
            original(self, *args, middlewares=(*middlewares, middleware), **options)

        return __init__

    replacements.replace(session, "__init__", with_middleware)


async def _guarded(guard: Guard, request: Any, send: Any, in_memory: Any) -> Any:
    asked = await _asked(request, in_memory)
    host = request.url.host or ""
    admitted = admit(guard, request.method, host, asked, request.headers)
    call = admitted.call
    assert call is not None
    request.headers.update(additional_header(request.headers, host, call.guard))
    if admitted.guard is None:  # a part of a call that is guarded already
        with carried(call):
            return await send(request)

    async def sent() -> Any:
        with carried(call):
            return await send(request)

    responses: list[Any] = []

    def record(response: Any) -> None:
        admitted.note_head(response.status, response.headers.get("content-type", ""))
        responses.append(response)

    try:
        response = await call.uninterrupted(sent(), record)
    except BaseException as error:
        if responses:  # cancelled, but the request went through: so does its body
            await _finish_unread(_Body(guard, admitted, request, responses[0]), responses[0])
        else:
            call.finish(error)
        raise
    if response.status == 101:  # a WebSocket from now on
        call.finish()
    else:
        _Body(guard, admitted, request, response)
    return response


async def _asked(request: Any, in_memory: Any) -> Asked | None:
    path = request.url.raw_path.partition("?")[0]
    if not may_ask(request.method, path) or not isinstance(request.body, in_memory):
        return None
    return asked_of(request.method, path, await request.body.as_bytes())


async def _finish_unread(body: _Body, response: Any) -> None:
    with suppress(Exception, AgentStopped, asyncio.CancelledError):
        async with asyncio.timeout(FINISH_SECONDS):
            await response.read()
    response.close()
    body.end()


class _Body:
    """The body of a response, in flight until it is read or closed."""

    def __init__(self, guard: Guard, admitted: Admitted, request: Any, response: Any) -> None:
        assert admitted.call is not None
        self._guard = guard
        self._call = admitted.call
        self._watching = admitted.watching
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        if request.method == "GET" and is_event_stream(response.headers):
            self._call.note_endless()
        note_open(guard, self)
        close, release = response.close, response.release

        def closing(then: Callable[[], Any]) -> Callable[[], Any]:
            def end() -> Any:
                self.end()
                return then()

            return end

        response.close, response.release = closing(close), closing(release)
        response.content = _Content(response.content, self)
        if self._content.at_eof():
            self.end()

    async def read(self, work: Callable[[], Awaitable[T]], data_of: Callable[[T], bytes]) -> T:
        """Read a piece of the body."""
        if self._is_over:
            return await work()

        async def reading() -> T:
            with carried(self._call):
                return await work()

        try:
            check(self._call)
            return await self._call.uninterrupted(
                reading(), lambda result: self.note(data_of(result))
            )
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not self._call.may_be_cut():
                await _finish_unread(self, self._response)
            self.end(error)
            self._response.close()
            raise

    def note(self, data: bytes) -> None:
        if self._watching is not None and data:
            self._watching.feed(data)
        if self._content.at_eof():
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        """End the call; repeats do nothing."""
        if self._is_over:
            return
        self._is_over = True
        forget_open(self._guard, self)
        if self._watching is not None and error is None and self._content.at_eof():
            self._watching.close()
        self._call.mark_incomplete()
        self._call.finish(error)

    async def close_for_good(self) -> None:
        """Close at the run's end."""
        if self._loop is asyncio.get_running_loop():
            self._response.close()
        self.end()


class _Content:
    """A response's ``content``, whose pieces are looked at when they are read."""

    def __init__(self, inner: Any, body: _Body) -> None:
        self._inner = inner
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, n: int = -1) -> bytes:
        return await self._body.read(lambda: self._inner.read(n), bytes)

    async def readany(self) -> bytes:
        return await self._body.read(self._inner.readany, bytes)

    async def readline(self, **options: Any) -> bytes:
        return await self._body.read(lambda: self._inner.readline(**options), bytes)

    async def readuntil(self, *args: Any, **options: Any) -> bytes:
        return await self._body.read(lambda: self._inner.readuntil(*args, **options), bytes)

    async def readexactly(self, n: int) -> bytes:
        return await self._body.read(lambda: self._inner.readexactly(n), bytes)

    async def readchunk(self) -> tuple[bytes, bool]:
        return await self._body.read(self._inner.readchunk, lambda chunk: chunk[0])

    def read_nowait(self, n: int = -1) -> bytes:
        data: bytes = self._inner.read_nowait(n)
        self._body.note(data)
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while line := await self.readline():
            yield line

    async def iter_any(self) -> AsyncIterator[bytes]:
        while data := await self.readany():
            yield data

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        while data := await self.read(n):
            yield data

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        while (chunk := await self.readchunk()) != (b"", False):
            yield chunk
