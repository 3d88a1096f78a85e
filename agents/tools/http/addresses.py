"""Where a request may go: to public addresses, and to what the operator allows.

Each name is resolved here, once, and a connection goes to an address that this module has admitted.
So a later answer of the DNS changes nothing. A redirect is a request of its own, and checked as
well. This module opens no connection.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import httpx

from agents.exceptions import AddressRefused, InvalidAddress
from agents.guard import current_guard
from agents.process.own_threads import LOOK_UPS
from agents.values.addresses import NOTHING, AllowList, is_public, literal_addresses

__all__ = [
    "Resolver",
    "admit",
    "check_literal",
    "check_url",
    "is_public",
    "look_up",
    "look_up_in_thread",
]

logger = logging.getLogger(__name__)

#: Host and port -> the addresses that the host has, as text.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

RESOLVE_SECONDS = 10.0

_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


def check_url(url: Any) -> None:
    """Refuse a URL, of httpx or httpx2, that no connection can be opened to.

    Raises:
        AddressRefused: it is of another scheme than http and https.
        InvalidAddress: it has no scheme, no host, or an impossible host or port.
    """
    if not url.scheme:
        raise InvalidAddress("the address begins with neither http:// nor https://")
    if url.scheme not in ("http", "https"):
        raise AddressRefused(f"only http and https addresses may be visited, not {url.scheme}:")
    host = url.raw_host.decode("ascii")
    if not host:
        raise InvalidAddress("the address has no host")
    if len(host) > 254 or not (_HOST.fullmatch(host.lower()) or _is_ipv6(host)):
        raise InvalidAddress(f"the address has no valid host: {host[:100]!r}")
    if url.port is not None and not 0 < url.port < 65_536:
        raise InvalidAddress(f"the address has the port {url.port}; ports are 1 to 65535")


def check_literal(host: str, allow: AllowList | None) -> None:
    """Refuse a host that by its spelling alone is neither public nor allowed; see ``admit``.

    For requests through a proxy, which resolves the names itself.

    Raises:
        AddressRefused: it may not be visited.
    """
    addresses = literal_addresses(host)
    if addresses:
        admit(host, addresses, allow)


async def look_up(
    host: str, port: int, allow: AllowList | None, resolver: Resolver | None = None
) -> list[str]:
    """Return the addresses of a host that may be connected to; see ``admit``.

    Raises:
        AddressRefused: none of them.
        httpx.ConnectError: it has no address, or the DNS does not answer.
    """
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await (resolver or _resolve)(host, port)
    except (OSError, UnicodeError):  # a TimeoutError is an OSError
        found = []
    return admit(host, found, allow)


def look_up_in_thread(host: str, port: int, allow: AllowList | None) -> list[str]:
    """As ``look_up``, for threads."""
    try:
        found = _texts(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        found = []
    return admit(host, found, allow)


def admit(host: str, addresses: Sequence[str], allow: AllowList | None) -> list[str]:
    """Return those of a host's addresses that may be connected to.

    Args:
        allow: None takes what the host of the current run allows; outside any run nothing.

    Raises:
        AddressRefused: none of them.
        httpx.ConnectError: there are none.
    """
    if not addresses:
        raise httpx.ConnectError(f"{host} can't be found")
    if allow is None:
        guard = current_guard()
        allow = NOTHING if guard is None else guard.reach.allow
    admitted = allow.admit(host, addresses)
    if admitted:
        return admitted
    # A run's log has what is logged in its context, and its owner must not learn the address.
    contextvars.Context().run(logger.info, "%s is refused: its addresses are %s", host, addresses)
    raise AddressRefused(
        f"{host} may not be visited: it is not public, and AGENTS_HTTP_ALLOW doesn't name it"
    )


async def _resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver, in a thread that no agent's jobs use."""
    return _texts(await LOOK_UPS.run(_ask, host, port))


def _ask(host: str, port: int) -> Sequence[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _texts(found: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
