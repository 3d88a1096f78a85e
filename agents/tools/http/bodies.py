"""The bodies of guarded responses, and what each run has open.

A call that is an HTTP request ends when its response is closed, so the body is where most of it
happens. This module knows no transport.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import httpx
import httpx2

from agents.cancellation import StopMode, is_in_cleanup
from agents.exceptions import AgentStopped, RunIsOver
from agents.guard import Call, Guard
from agents.process.own_threads import COMPUTING
from agents.tools.waiting import undisturbed

from .decoding import is_event_stream
from .sockets import shut_down_response

__all__ = [
    "FINISH_SECONDS",
    "AsyncBody",
    "SyncBody",
    "check",
    "forget_open",
    "note_open",
    "take_open",
]

FINISH_SECONDS = 30.0  # how long a body without a reader may take to its end

#: The bodies and clients that each run has open.
_opened: dict[Guard, set[Any]] = {}
_lock = threading.RLock()  # reentrant: the collector may close a forgotten body in any moment


def note_open(guard: Guard, opened: object) -> None:
    """Remember what is to be closed at the run's end."""
    with _lock:
        _opened.setdefault(guard, set()).add(opened)


def forget_open(guard: Guard, opened: object) -> None:
    """Forget what is closed."""
    with _lock:
        all_opened = _opened.get(guard, set())
        all_opened.discard(opened)
        if not all_opened:
            _opened.pop(guard, None)


def take_open(guard: Guard) -> set[Any]:
    """Return what a run has open, and forget it."""
    with _lock:
        return _opened.pop(guard, set())


def check(call: Call, softest: StopMode = StopMode.ABORT) -> None:
    """Refuse to continue an admitted call, if the stop is at least ``softest``."""
    mode = call.token.mode
    if mode is not None and mode.rank >= softest.rank and not is_in_cleanup():
        call.refuse()


class _Body:
    """A response's body, read under guard.

    Args:
        call: the call that the request is a part of.
        guard: given if the call is the request's own; the body then ends it.
    """

    def __init__(self, request: Any, response: Any, call: Call, guard: Guard | None) -> None:
        self._stream: Any = response.stream
        self._call = call
        self._guard = guard
        # A GET subscribes to events. The stream that answers a POST, such as a model's, ends.
        self._has_end = request.method != "GET" or not is_event_stream(response.headers)
        self._is_over = False
        self._closed = False
        self._error: BaseException | None = None
        if guard is not None:
            note_open(guard, self)
            if not self._has_end:
                call.note_endless()

    def _check(self) -> None:
        if self._is_over:
            raise RunIsOver("this run is over; its responses can't be read any more")
        check(self._call)
        if not self._has_end and self._call.is_quiet():
            check(self._call, StopMode.GRACEFUL)
        if self._guard is not None:
            self._call.check_time()

    def _forget(self) -> None:
        assert self._guard is not None
        forget_open(self._guard, self)


class AsyncBody(_Body, httpx.AsyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, request: Any, response: Any, call: Call, guard: Guard | None) -> None:
        self._has_ended = False
        self._reading: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        super().__init__(request, response, call, guard)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        try:
            while True:
                self._check()
                chunk = await self._next(chunks)
                if chunk is None:
                    return
                yield chunk
        except BaseException as error:
            if not isinstance(error, GeneratorExit):  # else the reader has read all it wanted
                self._error = error
            await self.aclose()
            raise

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Return the next chunk, None at the end."""
        if self._guard is None:
            return await anext(chunks, None)
        try:
            return await self._call.uninterrupted(self._read(chunks))
        except asyncio.CancelledError:
            if not self._is_over:
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
        """Read and drop the rest, if the call is to finish although its caller was cancelled.

        So the request ends for the server as well.
        """
        if not self._has_end or self._call.may_be_cut():
            return

        async def rest() -> None:
            async with asyncio.timeout(FINISH_SECONDS):
                while await self._read(chunks) is not None:
                    self._check()

        with suppress(Exception, AgentStopped, asyncio.CancelledError):
            await self._call.uninterrupted(rest())

    async def finish_unread(self, error: BaseException) -> None:
        """Take the answer of a request whose caller was cancelled with ``error``."""
        self._error = error
        try:
            await self._finish(aiter(self._stream))
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._guard is None:
            await undisturbed(self._stream.aclose())
            return
        self._forget()
        try:
            await undisturbed(self._stream.aclose())
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            if self._has_ended and isinstance(self._error, asyncio.CancelledError):
                self._error = None  # the reader was cut, the request was not
            self._call.mark_incomplete()  # until now, that spoke of one chunk only
            self._call.finish(self._error)

    async def close_for_good(self) -> None:
        """Close at the run's end, from outside the task that may be reading."""
        self._is_over = True
        if self._loop is not asyncio.get_running_loop():
            return  # the other loop refuses the next chunk
        if self._reading is not None:
            self._reading.cancel()  # the reader gets the cancellation, and closes
            return
        with suppress(Exception):  # no caller is left to raise it to
            await self.aclose()


class SyncBody(_Body, httpx.SyncByteStream, httpx2.SyncByteStream):
    _reading = False

    def __init__(self, request: Any, response: Any, call: Call, guard: Guard | None) -> None:
        self._cut = functools.partial(shut_down_response, response.extensions)
        super().__init__(request, response, call, guard)

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        try:
            while True:
                self._check()
                self._reading = True
                try:
                    with self._call.cut_in_thread(self._cut):
                        chunk = next(chunks, None)
                finally:
                    self._reading = False
                if chunk is None:
                    return
                yield chunk
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self._error = error
            self.close()
            raise

    def close(self) -> None:
        with _lock:
            if self._closed:
                return
            self._closed = True
        if self._guard is None:
            self._stream.close()
            return
        self._forget()
        try:
            self._stream.close()
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            self._call.finish(self._error)

    async def close_for_good(self) -> None:
        """Close at the run's end, from outside the thread that may be reading."""
        self._is_over = True
        if self._reading:
            return  # closing a socket under a thread that reads it would not wake that thread
        with suppress(Exception):
            await COMPUTING.run(self.close)
