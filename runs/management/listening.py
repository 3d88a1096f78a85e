"""Where a serving process listens: an address as a person writes it, and the socket for it."""

from __future__ import annotations

import errno
import re
import socket
from typing import Any

from django.core.management.base import CommandError

__all__ = ["Address", "address_to_open", "listen", "resolve"]

Address = tuple[socket.AddressFamily, Any]  # and what bind() takes

# Django's syntax: 8000, 127.0.0.1:8000, [::1]:8000, name:8000; and its shorthand 0:8000.
_ADDRPORT = re.compile(
    r"(?:(?P<host>\d{1,3}(?:\.\d{1,3}){3}|\[(?P<ipv6>[a-fA-F0-9:.]+)\]"
    r"|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*):)?(?P<port>\d{1,5})"
)

_UNREAD_SECONDS = 90.0

_BIND_ERRORS = {
    errno.EACCES: "you don't have permission for that port",
    errno.EADDRINUSE: "that port is already in use",
    errno.EADDRNOTAVAIL: "that address is not one of this machine's",
}


def resolve(addrport: str, *, use_ipv6: bool = False) -> Address:
    """Read ``port``, ``address:port`` or ``[IPv6]:port``; the port 0 stands for any free one.

    Raises:
        CommandError: it is malformed, or the name is unknown.
    """
    match = _ADDRPORT.fullmatch(addrport)
    if match is None or int(match["port"]) > 65535:
        raise CommandError(f"{addrport!r} is not a valid port number or address:port pair.")
    use_ipv6 = use_ipv6 or match["ipv6"] is not None
    host = match["ipv6"] or match["host"] or ("::1" if use_ipv6 else "127.0.0.1")
    family = socket.AF_INET6 if use_ipv6 else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, int(match["port"]), family, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"Can't listen on {addrport}: {error.strerror}.") from error
    return family, found[0][4]


def listen(addrport: str, address: Address) -> socket.socket:
    """Open the listening socket of ``addrport``, which was resolved to ``address``.

    Raises:
        CommandError: the address is taken, or no address of this machine.
    """
    family, sockaddr = address
    # The protocol by its name, not 0: asyncio switches Nagle's algorithm off only for sockets that
    # say that they are TCP. With it, each answer on a connection in use waits for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # of Linux
            # Connections inherit it: a client that reads nothing keeps the server's last bytes for
            # it, and the descriptor, no longer than this.
            milliseconds = int(_UNREAD_SECONDS * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind(sockaddr)
        # From here on a client waits during the start and a reload, instead of failing.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise CommandError(f"Can't listen on {addrport}: {reason}.") from error
    listener.set_inheritable(True)
    return listener


def address_to_open(listener: socket.socket) -> str:
    """Return the address of a listening socket as one opens it."""
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/"
