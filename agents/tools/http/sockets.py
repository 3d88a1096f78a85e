"""The sockets of requests that threads make, so that an abort can cut such a request.

A thread that waits for a socket can't be interrupted. Shutting the socket down wakes it: httpx then
raises an error, and closes the connection. While a thread looks up a name, connects or shakes
hands, there is no socket to shut down yet; its request is refused at the last moment.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

__all__ = ["shut_down_request", "shut_down_response"]


def shut_down_request(transport: Any, trace: object) -> None:
    """Wake the thread that waits for the head of an answer; ``trace`` is its request's extension.

    httpcore names no socket before there is a response, so this looks into its pool. If a release
    renames what is in there, nothing is cut.
    """
    while hasattr(transport, "_inner"):
        transport = transport._inner
    pool = getattr(transport, "_pool", None)
    for pending in list(getattr(pool, "_requests", ())):
        if pending.request.extensions.get("trace") is trace:
            for stream in _streams_below(pending.connection):
                _shut_down(stream)


def shut_down_response(extensions: dict[str, Any]) -> None:
    """Wake the thread that reads the body of the response that has these extensions."""
    if extensions.get("http_version") != b"HTTP/2":  # other requests use that connection, too
        _shut_down(extensions.get("network_stream"))


def _streams_below(connection: Any) -> Iterator[Any]:
    """Give the network stream of a connection, which may be a tunnel around another one."""
    while connection is not None:
        if not hasattr(connection, "_h2_state"):
            yield getattr(connection, "_network_stream", None)
        connection = getattr(connection, "_connection", None)


def _shut_down(stream: Any) -> None:
    opened = None if stream is None else stream.get_extra_info("socket")
    if isinstance(opened, socket.socket):
        with suppress(OSError):
            # Not SSLSocket's own method: it would take TLS away from the thread that is reading.
            socket.socket.shutdown(opened, socket.SHUT_RDWR)
