"""uvicorn's HTTP protocol, with a limit on the time and on the size of a request's head.

uvicorn waits for the rest of a request for as long as the client keeps the connection open, and
holds all that comes until then. runs/asgi has the limits for bodies.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HttpProtocol"]

# From the connection, or from the first byte of a request, to the end of the head. Browsers open
# connections that they may need soon; they open another one if we close it.
HEAD_SECONDS = 20.0
MOST_HEAD_BYTES = 64 * 1024


class HttpProtocol(HttpToolsProtocol):
    """One connection. It is closed, with an answer if there was a request, at the limits above."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _has_head = False  # of the request that is being received

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            if self._head_timer is None:  # the next request on a connection
                self._await_head()
            self._head_bytes += len(data)
        super().data_received(data)
        # A whole head is always passed on, even if a part of the body makes it look too large.
        if not self._has_head and self._head_bytes > MOST_HEAD_BYTES:
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        self._has_head = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._has_head = True
        self._forget_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._has_head = False
        super().on_message_complete()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(
            HEAD_SECONDS, self._refuse, "The request did not arrive in time."
        )

    def _forget_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, why: str) -> None:
        had_begun = self._head_bytes > 0
        is_answering = self.cycle is not None and not self.cycle.response_complete
        self._forget_head()
        if self.transport.is_closing():
            return
        if is_answering:
            # A client that sent more than its request gets its answer, and then uvicorn closes.
            return
        if had_begun:
            self.send_400_response(why)
        else:
            self.transport.close()
