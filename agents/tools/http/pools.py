"""The connections that all runs of one agent loop share.

One pool of httpx or httpx2 that has 2,000 streams open stalls the loop for seconds (it looks at all
of them at every request), so a pool here takes 50 at most, and there are as many as it takes. This
module knows no guard and no run.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
import httpx2

__all__ = ["Transports", "shared_ssl_context", "undisturbed"]

T = TypeVar("T")
Rq = TypeVar("Rq", httpx.Request, httpx2.Request)
Rs = TypeVar("Rs", httpx.Response, httpx2.Response)

STREAMS_PER_POOL = 50
IDLE_CONNECTIONS_PER_POOL = 20
IDLE_SECONDS = 30.0
CLOSE_SECONDS = 5.0


@functools.cache
def shared_ssl_context() -> ssl.SSLContext:
    """Return the process's one context for TLS; making one takes 20 to 50 ms."""
    return httpx.create_ssl_context()


class Transports:
    """The connection pools of one agent loop, for httpx and httpx2, shared by its runs.

    What it hands out may be given to any number of clients; closing those closes nothing here.
    """

    def __init__(self) -> None:
        self._http_async = _HttpxAsyncPools(_httpx_async_pool)
        self._http_sync = _HttpxSyncPools(_httpx_sync_pool)
        self._http2_async = _Httpx2AsyncPools(_httpx2_async_pool)

    def http_async(self) -> httpx.AsyncBaseTransport:
        return self._http_async

    def http_sync(self) -> httpx.BaseTransport:
        """Return the pools for threads."""
        return self._http_sync

    def httpx2_async(self) -> httpx2.AsyncBaseTransport:
        """Return the pools for SDKs that are built on httpx2."""
        return self._http2_async

    async def aclose(self) -> None:
        """Close every connection. Requests that come later open new ones."""
        await self._http_async.close_pools()
        await self._http2_async.close_pools()
        await asyncio.to_thread(self._http_sync.close_pools)


# The pools' own limit on connections is off: we count ourselves, and a slot that httpx 0.28 loses
# must not become a PoolTimeout for all runs.


def _httpx_async_pool() -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        verify=shared_ssl_context(), trust_env=False, limits=_limits(httpx.Limits)
    )


def _httpx_sync_pool() -> httpx.HTTPTransport:
    return httpx.HTTPTransport(
        verify=shared_ssl_context(), trust_env=False, limits=_limits(httpx.Limits)
    )


def _httpx2_async_pool() -> httpx2.AsyncHTTPTransport:
    return httpx2.AsyncHTTPTransport(
        verify=shared_ssl_context(), trust_env=False, limits=_limits(httpx2.Limits)
    )


def _limits(kind: Callable[..., T]) -> T:
    return kind(
        max_connections=None,
        max_keepalive_connections=IDLE_CONNECTIONS_PER_POOL,
        keepalive_expiry=IDLE_SECONDS,
    )


async def undisturbed(work: Coroutine[Any, Any, T], seconds: float = CLOSE_SECONDS) -> T:
    """Await ``work``, such as the closing of a connection, though the task may be cancelled.

    A cancellation is passed on when the work is done. httpx 0.28 loses a connection of its pool for
    ever if the closing is cut. The work runs in a context of its own: at a run's end the tasks that
    were made in the run's are cancelled.

    Raises:
        TimeoutError: it took too long, and was given up.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(_within(work, seconds), context=contextvars.Context())
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        if not task.cancelled():
            task.exception()  # seen, but the cancellation goes first
        raise interruption
    return task.result()


async def _within(work: Coroutine[Any, Any, T], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await work


@dataclass(eq=False, slots=True)
class _Pool:
    transport: Any
    busy_count: int = 0
    is_retired: bool = False  # takes no more requests, and is closed after its last request


class _Pools(Generic[Rq, Rs]):
    """Pools that grow when all are busy. The first one stays, the others go when they are idle."""

    def __init__(self, open_pool: Callable[[], Any]) -> None:
        self._open_pool = open_pool
        self._pools: list[_Pool] = []
        self._lock = threading.RLock()  # reentrant: the collector may close a body in any moment

    def take(self) -> _Pool:
        with self._lock:
            for pool in self._pools:
                if pool.busy_count < STREAMS_PER_POOL:
                    break
            else:
                pool = _Pool(self._open_pool())
                self._pools.append(pool)
            pool.busy_count += 1
            return pool

    def give_back(self, pool: _Pool) -> bool:
        """End one use of a pool; return whether it is to be closed now."""
        with self._lock:
            pool.busy_count -= 1
            if pool.busy_count:
                return False
            if pool.is_retired:
                return True
            if pool is self._pools[0]:
                return False
            self._pools.remove(pool)
            return True

    def take_all(self) -> list[_Pool]:
        """Retire all pools; return those that are to be closed now."""
        with self._lock:
            pools, self._pools = self._pools, []
            for pool in pools:
                pool.is_retired = True
            return pools


class _AsyncPools(_Pools[Rq, Rs]):
    _body_class: type[_AsyncBody]

    async def handle_async_request(self, request: Rq) -> Rs:
        pool = self.take()
        try:
            response: Rs = await pool.transport.handle_async_request(request)
        except BaseException:
            await self.release(pool)
            raise
        response.stream = self._body_class(response.stream, self, pool)  # type: ignore[assignment]
        return response

    async def release(self, pool: _Pool) -> None:
        if self.give_back(pool):
            await undisturbed(pool.transport.aclose())

    async def close_pools(self) -> None:
        for pool in self.take_all():
            await undisturbed(pool.transport.aclose())

    async def aclose(self) -> None:
        """Leave the pools alone: a client that is closed is not their only user."""


class _SyncPools(_Pools[Rq, Rs]):
    _body_class: type[_SyncBody]

    def handle_request(self, request: Rq) -> Rs:
        pool = self.take()
        try:
            response: Rs = pool.transport.handle_request(request)
        except BaseException:
            self.release(pool)
            raise
        response.stream = self._body_class(response.stream, self, pool)  # type: ignore[assignment]
        return response

    def release(self, pool: _Pool) -> None:
        if self.give_back(pool):
            pool.transport.close()

    def close_pools(self) -> None:
        for pool in self.take_all():
            pool.transport.close()

    def close(self) -> None:
        """Leave the pools alone: a client that is closed is not their only user."""


class _AsyncBody:
    """A response's body, which keeps its pool busy until it is closed."""

    def __init__(self, stream: Any, pools: _AsyncPools[Any, Any], pool: _Pool) -> None:
        self._stream = stream
        self._pools = pools
        self._pool = pool
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._stream.aclose()
        finally:
            await self._pools.release(self._pool)


class _SyncBody:
    """As ``_AsyncBody``, for threads."""

    def __init__(self, stream: Any, pools: _SyncPools[Any, Any], pool: _Pool) -> None:
        self._stream = stream
        self._pools = pools
        self._pool = pool
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._stream.close()
        finally:
            self._pools.release(self._pool)


class _HttpxAsyncBody(_AsyncBody, httpx.AsyncByteStream):
    pass


class _HttpxSyncBody(_SyncBody, httpx.SyncByteStream):
    pass


class _Httpx2AsyncBody(_AsyncBody, httpx2.AsyncByteStream):
    pass


class _HttpxAsyncPools(_AsyncPools[httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    _body_class = _HttpxAsyncBody


class _HttpxSyncPools(_SyncPools[httpx.Request, httpx.Response], httpx.BaseTransport):
    _body_class = _HttpxSyncBody


class _Httpx2AsyncPools(_AsyncPools[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    _body_class = _Httpx2AsyncBody
