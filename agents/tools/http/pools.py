"""The connections that all runs of one agent loop share.

One pool of httpx or httpx2 with 2,000 open streams stalls the loop for seconds: each request looks
at all of them. So a pool here takes at most 50, and there are as many pools as needed. This module
knows no guard and no run.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import httpx2

from agents.tools.waiting import undisturbed
from agents.values.addresses import PUBLIC, Reach

from .connections import AsyncTransport, shared_ssl_context
from .proxies import make_proxy

__all__ = ["Transports", "shared_ssl_context"]

STREAMS_PER_POOL = 50
IDLE_CONNECTIONS_PER_POOL = 20
IDLE_SECONDS = 30.0


class Transports:
    """The connection pools of one agent loop, for httpx and httpx2, shared by its runs.

    Any number of clients may use one of its transports; closing such a client closes no connection.

    Args:
        reach: what ``http_async`` may reach. The pools of ``httpx2_async`` go anywhere: they are
            the model's, whose address is the operator's own.
        model_proxy_url: the proxy to the model, as http://user:password@host:port; "" is none. The
            environment's proxies are ignored.

    Raises:
        ValueError: there can be no such proxy.
    """

    def __init__(self, reach: Reach = PUBLIC, *, model_proxy_url: str = "") -> None:
        proxy = make_proxy(httpx2, model_proxy_url, shared_ssl_context)
        self._http_async = _AsyncPools(partial(AsyncTransport, reach), httpx.Limits)
        self._http2_async = _AsyncPools(partial(_model_transport, proxy), httpx2.Limits)

    def http_async(self) -> httpx.AsyncBaseTransport:
        """Return the pools of ``tools.http``."""
        return self._http_async

    def httpx2_async(self) -> httpx2.AsyncBaseTransport:
        """Return the model's pools, for SDKs that are built on httpx2."""
        return self._http2_async

    async def aclose(self) -> None:
        """Close every connection. Requests that come later open new ones."""
        await self._http_async.close_pools()
        await self._http2_async.close_pools()


def _model_transport(
    proxy: httpx2.Proxy | None, limits: httpx2.Limits
) -> httpx2.AsyncHTTPTransport:
    context = shared_ssl_context()
    return httpx2.AsyncHTTPTransport(verify=context, trust_env=False, proxy=proxy, limits=limits)


@dataclass(eq=False, slots=True)
class _Pool:
    transport: Any
    busy_count: int = 0


class _Pools:
    """Pools that grow when all are busy. The first one stays, the others go when they are idle.

    Args:
        transport: makes a pool, of httpx or httpx2, when it is given ``limits``.
        limits: the library's class for limits.
    """

    has_moments = True  # see last_moment

    def __init__(self, transport: Callable[..., Any], limits: Callable[..., Any]) -> None:
        self._transport = transport
        # The pools' own limit on connections is off: we count ourselves, and a slot that httpx 0.28
        # loses must not become a PoolTimeout for all runs.
        self._limits = limits(
            max_connections=None,
            max_keepalive_connections=IDLE_CONNECTIONS_PER_POOL,
            keepalive_expiry=IDLE_SECONDS,
        )
        self._pools: list[_Pool] = []
        self._lock = threading.RLock()  # reentrant: the collector may close a body in any moment

    def take(self) -> _Pool:
        with self._lock:
            for pool in self._pools:
                if pool.busy_count < STREAMS_PER_POOL:
                    break
            else:
                pool = _Pool(self._transport(limits=self._limits))
                self._pools.append(pool)
            pool.busy_count += 1
            return pool

    def give_back(self, pool: _Pool) -> bool:
        """End one use of a pool; return whether it is to be closed now."""
        with self._lock:
            pool.busy_count -= 1
            if pool.busy_count or pool in self._pools[:1]:
                return False
            if pool in self._pools:  # else it was retired
                self._pools.remove(pool)
            return True

    def retire_all(self) -> list[_Pool]:
        """Let no pool take another request; return all. A busy one is closed again when idle."""
        with self._lock:
            pools, self._pools = self._pools, []
            return pools


class _AsyncPools(_Pools, httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request: Any) -> Any:
        pool = self.take()
        try:
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            await self.release(pool)
            raise
        response.stream = _AsyncBody(response.stream, partial(self.release, pool))
        return response

    async def release(self, pool: _Pool) -> None:
        if self.give_back(pool):
            await undisturbed(pool.transport.aclose())

    async def close_pools(self) -> None:
        for pool in self.retire_all():
            await undisturbed(pool.transport.aclose())

    async def aclose(self) -> None:
        """Leave the pools alone: a client that is closed is not their only user."""


class _AsyncBody(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """A response's body, which keeps its pool busy until it is closed."""

    def __init__(self, stream: Any, release: Callable[[], Any]) -> None:
        self._stream = stream
        self._release = release
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
            await self._release()
