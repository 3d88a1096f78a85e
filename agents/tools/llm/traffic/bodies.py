"""The bodies of answers of models: they pass as they are, and are looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import httpx2

from .watching import Watching

__all__ = ["AsyncWatched", "SyncWatched"]


class AsyncWatched(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, stream: Any, watching: Watching) -> None:
        self._stream = stream
        self._watching = watching

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._watching.feed(chunk)
            yield chunk
        self._watching.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


class SyncWatched(httpx.SyncByteStream, httpx2.SyncByteStream):
    def __init__(self, stream: Any, watching: Watching) -> None:
        self._stream = stream
        self._watching = watching

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._watching.feed(chunk)
            yield chunk
        self._watching.close()

    def close(self) -> None:
        self._stream.close()
