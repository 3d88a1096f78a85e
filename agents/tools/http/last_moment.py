"""The last moment before a request is sent, which is when a stop can still keep it from the server.

A call is admitted first, then a name is looked up and a connection is opened, which may take ten
seconds. httpcore tells the extension "trace" of a request when it begins to send.
"""

from __future__ import annotations

from typing import Any, Self

import httpx
import httpx2

from agents.guard import Call
from agents.tools.waiting import undisturbed

__all__ = ["AsyncAtTheLastMoment", "AtTheLastMoment", "SyncAtTheLastMoment", "has_moments"]

_TRACE = "trace"
_BEGINS_TO_SEND = "send_request_headers.started"
_TELLING = (
    *(httpx.AsyncHTTPTransport, httpx.HTTPTransport),
    *(httpx2.AsyncHTTPTransport, httpx2.HTTPTransport),
)


def has_moments(transport: object) -> bool:
    """Return whether a transport tells a request's moments: httpx's and httpx2's own do."""
    return isinstance(transport, _TELLING) or getattr(transport, "has_moments", False)


class AtTheLastMoment:
    """Refuses a request of a call that a stop has met since it was admitted."""

    def __init__(self, call: Call, others: Any) -> None:
        self._call = call
        self._others = others  # what the caller put there

    @classmethod
    def note(cls, request: Any, call: Call) -> Self:
        """Put this into a request."""
        others = request.extensions.get(_TRACE)
        if isinstance(others, AtTheLastMoment):  # a redirect has the extensions of what led there
            others = others._others
        moment = cls(call, others)
        request.extensions = {**request.extensions, _TRACE: moment}
        if call.is_sent is None:
            call.is_sent = False
        return moment

    def _on_event(self, name: str) -> None:
        if name.endswith(_BEGINS_TO_SEND):
            call = self._call
            call.token.admit(call.tool, call.label)
            call.is_sent = True


class AsyncAtTheLastMoment(AtTheLastMoment):
    """As ``AtTheLastMoment``; it also closes a connection whose TLS handshake was cut.

    httpcore 1.0 and httpcore2 close it after an error, and leave it open after a cancellation.
    """

    _connection: Any = None

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        self._on_event(name)
        if name.endswith("connect_tcp.complete"):
            self._connection = info.get("return_value")
        elif name.endswith("start_tls.failed") and self._connection is not None:
            await undisturbed(self._connection.aclose())
        if self._others is not None:
            await self._others(name, info)


class SyncAtTheLastMoment(AtTheLastMoment):
    def __call__(self, name: str, info: dict[str, Any]) -> None:
        self._on_event(name)
        if self._others is not None:
            self._others(name, info)
