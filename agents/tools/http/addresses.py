"""Where a request may go: to public addresses only, through names and redirects, too.

A user's address could point into the network that the agent runs in, at a database or at a cloud's
metadata service. This module knows no guard and no run.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import httpx

from agents.exceptions import AddressRefused

from .pools import shared_ssl_context

__all__ = ["Resolver", "is_public", "public_only"]

#: Host and port -> the addresses that the host has, as text.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

RESOLVE_SECONDS = 10.0

# Not public, although ``is_global`` says so in some versions of Python.
_SPECIAL = [
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; Alibaba's metadata service
        "168.63.129.16/32",  # Azure's own service for its virtual machines
        "192.0.0.0/24",  # protocol assignments, RFC 6890; Oracle's metadata service
        "192.88.99.0/24",  # relays to 6to4, RFC 7526
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "224.0.0.0/3",  # multicast and reserved
        "2001::/23",  # protocol assignments, RFC 2928, Teredo among them
        "2001:db8::/32",  # documentation, RFC 3849
        "3fff::/20",  # documentation, RFC 9637
    )
]
_UNICAST_V6 = ipaddress.ip_network("2000::/3")  # the only range assigned as global, RFC 4291
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits, RFC 6052


def is_public(address: str) -> bool:
    """Return whether an IP address, as text, is reachable from anywhere on the internet.

    An IPv4 address embedded in an IPv6 one (mapped, 6to4, NAT64) decides for it.

    Raises:
        ValueError: it is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if ip not in _UNICAST_V6:
            return False
    return ip.is_global and not any(ip in network for network in _SPECIAL)


def public_only(
    inner: httpx.AsyncBaseTransport | None = None, *, resolver: Resolver | None = None
) -> httpx.AsyncBaseTransport:
    """Wrap a transport so that it refuses URLs that lead to anything but public addresses.

    It refuses a name if any of its addresses is not public. The connection goes to an address that
    was checked, so a later answer of the DNS changes nothing. A redirect is a request of its own,
    and checked as well. Certificates are checked against the name. Without ``inner`` the transport
    opens connections of its own. ``resolver`` is for tests.

    Put it inside: ``guarded_transport(public_only())``.

    Raises (from its requests):
        AddressRefused: the URL leads to an address that may not be visited.
        httpx.ConnectError: the name has no address.
    """
    if inner is None:
        inner = httpx.AsyncHTTPTransport(verify=shared_ssl_context(), trust_env=False)
    return _PublicOnly(inner, resolver or _resolve)


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _PublicOnly(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, resolver: Resolver) -> None:
        self._inner = inner
        self._resolver = resolver

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme not in ("http", "https"):
            raise AddressRefused(
                f"only http and https addresses may be visited, not {request.url.scheme}:"
            )
        addresses = await self._look_up(request)
        for address in addresses[:-1]:
            try:
                return await self._inner.handle_async_request(_pinned(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue  # nothing was sent yet, and the name has another address
        return await self._inner.handle_async_request(_pinned(request, addresses[-1]))

    async def _look_up(self, request: httpx.Request) -> Sequence[str]:
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
            raise httpx.ConnectError(f"{host} can't be found", request=request) from error
        if not addresses:
            raise httpx.ConnectError(f"{host} can't be found", request=request)
        for address in addresses:
            if not is_public(address):
                raise AddressRefused(
                    f"{host} may not be visited: its address {address} is not a public one"
                    if address != host
                    else f"{host} may not be visited: it is not a public address"
                )
        return addresses

    async def aclose(self) -> None:
        await self._inner.aclose()


def _pinned(request: httpx.Request, address: str) -> httpx.Request:
    """Return the same request to one address instead of a name.

    It closes its connection. Otherwise the pool, which knows connections by their address, could
    use it for another name at that address, without checking that name's certificate.
    """
    headers = httpx.Headers(request.headers)
    headers["Connection"] = "close"
    return httpx.Request(
        method=request.method,
        url=request.url.copy_with(host=address.partition("%")[0]),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")},
    )
