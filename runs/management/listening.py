"""Where a serving process listens: an address as a person writes it, and the socket for it."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError

__all__ = ["Address", "address_to_open", "listen", "resolve"]

# Django's syntax: 8000, 127.0.0.1:8000, [::1]:8000, name:8000; and its shorthand 0:8000.
_ADDRPORT = re.compile(
    r"(?:(?P<host>\d{1,3}(?:\.\d{1,3}){3}|\[(?P<ipv6>[a-fA-F0-9:.]+)\]"
    r"|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*):)?(?P<port>\d{1,5})"
)

_BIND_ERRORS = {
    errno.EACCES: "you don't have permission for that port",
    errno.EADDRINUSE: "that port is already in use",
    errno.EADDRNOTAVAIL: "that address is not one of this machine's",
}


@dataclass(frozen=True, slots=True)
class Address:
    """An address of this machine, and how it was written."""

    written: str
    family: socket.AddressFamily
    sockaddr: Any

    @property
    def host(self) -> str:
        """The IP address, without the zone that IPv6 may add."""
        return str(self.sockaddr[0]).partition("%")[0]


def resolve(addrport: str, *, use_ipv6: bool = False) -> Address:
    """Read ``port``, ``address:port`` or ``[IPv6]:port``; the port 0 stands for any free one.

    Raises:
        CommandError: it is malformed, or the name is unknown.
    """
    match = _ADDRPORT.fullmatch(addrport)
    if match is None or int(match["port"]) > 65535:
        raise CommandError(f"{addrport!r} is not a valid port number or address:port pair.")
    host, port = match["ipv6"] or match["host"], int(match["port"])
    use_ipv6 = use_ipv6 or match["ipv6"] is not None
    if host is None:
        host = "::1" if use_ipv6 else "127.0.0.1"
    family = socket.AF_INET6 if use_ipv6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"Can't listen on {addrport}: {error.strerror}.") from error
    return Address(addrport, family, found[0][4])


def listen(address: Address) -> socket.socket:
    """Open the listening socket.

    Raises:
        CommandError: the address is taken, or no address of this machine.
    """
    # The protocol by its name, not 0: asyncio switches Nagle's algorithm off only for sockets that
    # say that they are TCP, and with it each answer on a connection in use waits for 40 ms.
    listener = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address.sockaddr)
        # From here on a client waits for the start, and during a reload, instead of failing.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise CommandError(f"Can't listen on {address.written}: {reason}.") from error
    listener.set_inheritable(True)
    return listener


def address_to_open(listener: socket.socket) -> str:
    """Return the address of a listening socket as one opens it."""
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/"
