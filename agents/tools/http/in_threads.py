"""Requests of a thread, carried by the agents' loop: there an abort can cut them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import httpx

__all__ = ["OnLoop", "Wait"]

#: Runs a coroutine on the loop, and waits for its result in the calling thread.
Wait: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]


class OnLoop(httpx.BaseTransport):
    """A transport for ``httpx.Client`` around one for coroutines."""

    def __init__(self, inner: httpx.AsyncBaseTransport, wait: Wait) -> None:
        self._inner = inner
        self._wait = wait

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not isinstance(request.stream, httpx.AsyncByteStream):
            request.stream = _Upload(request.stream)
        response: httpx.Response = self._wait(self._inner.handle_async_request(request))
        response.stream = _Download(response.stream, self._wait)
        return response


class _Upload(httpx.AsyncByteStream):
    """A body that a thread would read, such as a file: each piece is read in a thread."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        pieces = iter(self._stream)
        while (piece := await loop.run_in_executor(None, next, pieces, None)) is not None:
            yield piece


class _Download(httpx.SyncByteStream):
    def __init__(self, stream: Any, wait: Wait) -> None:
        self._stream = stream
        self._wait = wait

    def __iter__(self) -> Iterator[bytes]:
        pieces = aiter(self._stream)
        while (piece := self._wait(_next(pieces))) is not None:
            yield piece

    def close(self) -> None:
        self._wait(self._stream.aclose())


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)
