"""The bodies of guarded responses, and what a run has open of them.

A call that is an HTTP request ends when its response is closed, so the body is where most of it
happens. This module knows no transport.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import httpx
import httpx2

from agents.cancellation import StopMode
from agents.exceptions import AgentStopped, RunIsOver
from agents.guard import Call, Guard

from .pools import undisturbed

__all__ = [
    "AsyncBody",
    "Governed",
    "Httpx2AsyncBody",
    "Httpx2SyncBody",
    "HttpxAsyncBody",
    "HttpxSyncBody",
    "SyncBody",
    "note_client",
    "take_open",
]

FINISH_SECONDS = 30.0  # how long a body without a reader may take to its end


class _Opened:
    """What the code of one run has opened and not closed yet."""

    def __init__(self) -> None:
        self.bodies: set[AsyncBody | SyncBody] = set()
        self.clients: list[httpx.AsyncClient | httpx.Client] = []


_opened: dict[Guard, _Opened] = {}
_lock = threading.RLock()  # reentrant: the collector may close a forgotten body in any moment


def note_client(guard: Guard, client: httpx.AsyncClient | httpx.Client) -> None:
    """Remember a client that is to be closed at the run's end."""
    with _lock:
        _opened.setdefault(guard, _Opened()).clients.append(client)


def take_open(
    guard: Guard,
) -> tuple[list[AsyncBody | SyncBody], list[httpx.AsyncClient | httpx.Client]]:
    """Return what a run has open, bodies and clients, and forget it."""
    with _lock:
        opened = _opened.pop(guard, None)
    return (list(opened.bodies), opened.clients) if opened else ([], [])


def _note_open(guard: Guard, body: AsyncBody | SyncBody) -> None:
    with _lock:
        _opened.setdefault(guard, _Opened()).bodies.add(body)


def _note_closed(guard: Guard, body: AsyncBody | SyncBody) -> None:
    with _lock:
        opened = _opened.get(guard)
        if opened is None:
            return
        opened.bodies.discard(body)
        if not opened.bodies and not opened.clients:
            del _opened[guard]


class Governed:
    """Who has a say over one request: a guard, and the call that it is a part of, if any."""

    __slots__ = ("call", "guard", "own_call")

    def __init__(self, guard: Guard, call: Call, own_call: bool) -> None:
        self.guard = guard
        self.call = call
        self.own_call = own_call

    def check(self) -> None:
        """Refuse to go on, if the stop is harder than one that lets calls finish."""
        if self.guard.token.mode not in (None, StopMode.GRACEFUL):
            self.guard.check(self.call.tool, self.call.label)

    @property
    def may_finish(self) -> bool:
        """Whether the call is to finish although its caller was cancelled."""
        return not self.call.may_be_cut()


class AsyncBody:
    """A response's body, read under guard. A call that is the request's own ends with it."""

    def __init__(self, response: Any, governed: Governed) -> None:
        self._stream: Any = response.stream
        self._governed = governed
        # An event stream may have no end; any other body has one.
        self._has_end = "text/event-stream" not in response.headers.get("content-type", "")
        self._has_ended = False
        self._reading: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._closed = False
        self._error: BaseException | None = None
        if governed.own_call:
            _note_open(governed.guard, self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        try:
            while True:
                self._check()
                chunk = await self._next(chunks)
                if chunk is None:
                    return
                yield chunk
        except GeneratorExit:  # read as far as was wanted
            await self.aclose()
            raise
        except BaseException as error:
            self._error = error
            await self.aclose()
            raise

    def _check(self) -> None:
        if self._is_over:
            raise RunIsOver("this run is over; its responses can't be read any more")
        self._governed.check()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Return the next chunk, None at the end."""
        governed = self._governed
        if not governed.own_call:
            return await anext(chunks, None)
        try:
            return await governed.call.uninterrupted(self._read(chunks))
        except asyncio.CancelledError:
            if self._has_end and governed.may_finish and not self._is_over:
                await self._finish(chunks)
            raise

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        self._reading = asyncio.current_task()
        try:
            chunk = await anext(chunks, None)
        finally:
            self._reading = None
        self._has_ended = chunk is None
        return chunk

    async def _finish(self, chunks: AsyncIterator[bytes]) -> None:
        """Read and drop the rest, so that the request ends as the server knows it."""

        async def rest() -> None:
            async with asyncio.timeout(FINISH_SECONDS):
                while await self._read(chunks) is not None:
                    self._check()

        with suppress(Exception, AgentStopped, asyncio.CancelledError):
            await self._governed.call.uninterrupted(rest())

    async def finish_for_nobody(self, error: BaseException) -> None:
        """Take the answer of a request whose maker was cancelled meanwhile."""
        self._error = error
        try:
            if self._has_end and self._governed.may_finish:
                await self._finish(aiter(self._stream))
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        governed = self._governed
        if not governed.own_call:
            await undisturbed(self._stream.aclose())
            return
        _note_closed(governed.guard, self)
        try:
            await undisturbed(self._stream.aclose())
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            if self._has_ended and isinstance(self._error, asyncio.CancelledError):
                self._error = None  # the reader was cut, the request was not
            governed.call.mark_incomplete()  # so far that spoke of one chunk only
            governed.call.finish(self._error)

    async def close_for_good(self) -> None:
        """Close from outside of whatever reads it."""
        self._is_over = True
        if self._loop is not asyncio.get_running_loop():
            return  # the next chunk is refused, over there
        if self._reading is not None:
            self._reading.cancel()  # the reader gets the cancellation, and closes
            return
        with suppress(Exception):  # no caller is left to raise it to
            await self.aclose()


class SyncBody:
    """As ``AsyncBody``, for threads."""

    def __init__(self, response: Any, governed: Governed) -> None:
        self._stream: Any = response.stream
        self._governed = governed
        self._is_over = False
        self._reading = False
        self._closed = False
        self._error: BaseException | None = None
        if governed.own_call:
            _note_open(governed.guard, self)

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        try:
            while True:
                if self._is_over:
                    raise RunIsOver("this run is over; its responses can't be read any more")
                self._governed.check()
                self._reading = True
                try:
                    chunk = next(chunks, None)
                finally:
                    self._reading = False
                if chunk is None:
                    return
                yield chunk
        except GeneratorExit:
            self.close()
            raise
        except BaseException as error:
            self._error = error
            self.close()
            raise

    def close(self) -> None:
        with _lock:
            if self._closed:
                return
            self._closed = True
        governed = self._governed
        if not governed.own_call:
            self._stream.close()
            return
        _note_closed(governed.guard, self)
        try:
            self._stream.close()
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            governed.call.finish(self._error)

    async def close_for_good(self) -> None:
        """Close from outside of whatever reads it."""
        self._is_over = True
        if self._reading:
            return  # closing a socket under a thread that reads it would not wake that thread
        with suppress(Exception):
            await asyncio.to_thread(self.close)


class HttpxAsyncBody(AsyncBody, httpx.AsyncByteStream):
    pass


class HttpxSyncBody(SyncBody, httpx.SyncByteStream):
    pass


class Httpx2AsyncBody(AsyncBody, httpx2.AsyncByteStream):
    pass


class Httpx2SyncBody(SyncBody, httpx2.SyncByteStream):
    pass
