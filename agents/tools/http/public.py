"""Transports of agents' own that visit public addresses only."""

from __future__ import annotations

import functools
from typing import Any

import httpx
import httpx2

from agents.guard import current_guard
from agents.values.addresses import PUBLIC, AllowList, Reach

from .addresses import Resolver, check_url, look_up, look_up_in_thread
from .connections import AsyncTransport
from .last_moment import has_moments

__all__ = ["kind_of_wrapper", "public_only"]

_FAILED = (httpx.ConnectError, httpx.ConnectTimeout, httpx2.ConnectError, httpx2.ConnectTimeout)


def public_only(
    inner: Any = None, *, resolver: Resolver | None = None, allow: AllowList | None = None
) -> Any:
    """Return a transport that refuses URLs that lead to an address that is not public.

    It refuses names that lead there as well, and checks each redirect. The connection goes to an
    address that was checked. ``allow`` is by default what ``AGENTS_HTTP_ALLOW`` allows.

    Without ``inner`` it is a transport for ``httpx.AsyncClient``, with connections of its own, that
    go through ``AGENTS_HTTP_PROXY_URL`` if that is set. With ``inner``, a transport of httpx or
    httpx2, each request takes a new connection: the pool of ``inner`` can't know for which name it
    was opened.

    Put it inside: ``guarded_transport(public_only())``. ``resolver`` is for tests.

    Raises (from its requests):
        AddressRefused: the URL leads to an address that may not be visited.
        InvalidAddress: the URL is none that can be visited.
        httpx.ConnectError: the name has no address.
    """
    if inner is None:
        guard = current_guard()
        reach = PUBLIC if guard is None else guard.reach
        if guard is None and allow is None:
            return AsyncTransport(resolver=resolver)
        return AsyncTransport(Reach(allow or reach.allow, reach.proxy_url), resolver=resolver)
    return kind_of_wrapper(inner, _AsyncPublicOnly, _SyncPublicOnly)(inner, resolver, allow)


def kind_of_wrapper(inner: object, for_coroutines: type, for_threads: type) -> Any:
    """Return the class of a transport that wraps ``inner``, made of the two that are given.

    It is of ``inner``'s kinds, and of no others: the anthropic SDK takes transports of httpx2, and
    refuses one that is a transport of httpx as well. A fake, such as ``httpx.MockTransport``, may
    be for coroutines and for threads.

    Raises:
        TypeError: ``inner`` is not a transport.
    """
    kinds = {
        httpx.AsyncBaseTransport: for_coroutines,
        httpx2.AsyncBaseTransport: for_coroutines,
        httpx.BaseTransport: for_threads,
        httpx2.BaseTransport: for_threads,
    }
    bases = [base for base in kinds if isinstance(inner, base)]
    if bases:
        return _made_of(*dict.fromkeys(kinds[base] for base in bases), *bases)
    raise TypeError(
        "this takes a transport of httpx or httpx2, such as httpx.AsyncHTTPTransport(),"
        f" not {type(inner).__name__}"
    )


@functools.cache
def _made_of(*bases: type) -> type:
    return type(bases[0].__name__, bases, {})


class _PublicOnly:
    def __init__(self, inner: Any, resolver: Resolver | None, allow: AllowList | None) -> None:
        self._inner = inner
        self._resolver = resolver
        self._allow = allow
        self.has_moments = has_moments(inner)

    def _asked(self, request: Any) -> tuple[str, int, AllowList | None]:
        check_url(request.url)
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        return request.url.raw_host.decode("ascii"), port, self._allow


class _AsyncPublicOnly(_PublicOnly):
    async def handle_async_request(self, request: Any) -> Any:
        addresses = await look_up(*self._asked(request), self._resolver)
        for address in addresses[:-1]:
            try:
                return await self._inner.handle_async_request(_pinned(request, address))
            except _FAILED:
                continue  # nothing was sent yet, and the name has another address
        return await self._inner.handle_async_request(_pinned(request, addresses[-1]))

    async def aclose(self) -> None:
        await self._inner.aclose()


class _SyncPublicOnly(_PublicOnly):
    def handle_request(self, request: Any) -> Any:
        addresses = look_up_in_thread(*self._asked(request))
        for address in addresses[:-1]:
            try:
                return self._inner.handle_request(_pinned(request, address))
            except _FAILED:
                continue
        return self._inner.handle_request(_pinned(request, addresses[-1]))

    def close(self) -> None:
        self._inner.close()


def _pinned(request: Any, address: str) -> Any:
    """Return the same request to one address instead of a name.

    It closes its connection. Otherwise the pool, which knows connections by their address, could
    use it for another name at that address, without checking that name's certificate.
    """
    headers = type(request.headers)(request.headers)
    headers["Connection"] = "close"
    return type(request)(
        method=request.method,
        url=request.url.copy_with(host=address.partition("%")[0]),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")},
    )
