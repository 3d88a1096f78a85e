"""Connections to hosts that may be visited, directly or through a proxy.

The check is where the socket is opened: a pool may keep a connection and use it again, since it
knows it by the host's name, and TLS has checked the certificate for that name.
"""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import anyio
import httpcore
import httpx

from agents.values.addresses import AllowList, Reach

from .addresses import Resolver, check_literal, check_url, look_up
from .proxies import make_proxy

__all__ = ["AsyncTransport", "shared_ssl_context"]

ATTEMPT_SECONDS = 2.0  # for each address of a host but its last

_FAILED = (httpcore.ConnectError, httpcore.ConnectTimeout)


@functools.cache
def shared_ssl_context() -> ssl.SSLContext:
    """Return the process's one context for TLS; making one takes 20 to 50 ms."""
    return httpx.create_ssl_context()


class AsyncTransport(httpx.AsyncHTTPTransport):
    """Visits what ``reach`` lets it.

    Args:
        reach: None takes what the host of the current run allows, at each request.
        resolver: is for tests.
        options: of httpx's transport.
    """

    def __init__(
        self, reach: Reach | None = None, *, resolver: Resolver | None = None, **options: Any
    ) -> None:
        proxy = make_proxy(httpx, reach.proxy_url if reach else "", shared_ssl_context)
        super().__init__(verify=shared_ssl_context(), trust_env=False, proxy=proxy, **options)
        self._allow = reach.allow if reach else None
        self._has_proxy = proxy is not None
        if not self._has_proxy:
            _put_in(self, _AsyncBackend(self._allow, resolver))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        check_url(request.url)
        if self._has_proxy:  # it resolves the names itself, so only spellings can be checked
            check_literal(request.url.raw_host.decode("ascii"), self._allow)
        return await super().handle_async_request(request)


def _put_in(transport: Any, backend: object) -> None:
    """Make httpx's transport connect through ``backend``.

    httpcore takes a backend, but httpx 0.28 has no argument for it. If either renames these
    attributes this raises, and nothing is connected to.
    """
    if not hasattr(transport._pool, "_network_backend"):
        raise RuntimeError("this release of httpcore opens its connections in another way")
    transport._pool._network_backend = backend


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, allow: AllowList | None, resolver: Resolver | None) -> None:
        self._allow = allow
        self._resolver = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: type[Exception] = httpcore.ConnectTimeout
        with anyio.move_on_after(timeout):
            addresses = await look_up(host, port, self._allow, self._resolver)
            for address, seconds in _attempts(addresses, timeout):
                try:
                    return await self._inner.connect_tcp(
                        address, port, seconds, local_address, socket_options
                    )
                except _FAILED as error:
                    failure = type(error)
        raise _failed(failure, host, port)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _attempts(
    addresses: Sequence[str], timeout: float | None
) -> Iterator[tuple[str, float | None]]:
    """Give each address with the seconds for it: one that does not answer must not take all."""
    until = None if timeout is None else time.monotonic() + timeout
    for address in addresses:
        left = None if until is None else max(0.001, until - time.monotonic())
        is_last = address == addresses[-1]
        yield address, left if is_last else min(ATTEMPT_SECONDS, left or ATTEMPT_SECONDS)


def _failed(failure: type[Exception], host: str, port: int) -> Exception:
    # Not chained: the errors that led here name the address, which a run's owner must not learn.
    return failure(f"{host}:{port} can't be connected to")
