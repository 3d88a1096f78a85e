"""Guard the requests of all clients of httpx or httpx2: their transports do it.

Fakes, and transports that some library has written itself, are not guarded by this; a library's own
usually carries its requests with aiohttp or urllib3.
"""

from __future__ import annotations

from typing import Any

from agents.guard import carrying, current_guard
from agents.tools.http.client import guard_one_request, guard_one_request_in_thread

from .replacing import Replacements

__all__ = ["guard_httpx"]


def guard_httpx(library: Any, replacements: Replacements) -> None:
    """Guard ``library``, httpx or httpx2."""
    replacements.replace(library.AsyncHTTPTransport, "handle_async_request", _guarded_async)
    replacements.replace(library.HTTPTransport, "handle_request", _guarded)


def _guarded_async(send: Any) -> Any:
    async def handle_async_request(self: Any, request: Any) -> Any:
        if carrying() is not None or current_guard() is None:
            return await send(self, request)
        return await guard_one_request(self, send, request)

    return handle_async_request


def _guarded(send: Any) -> Any:
    def handle_request(self: Any, request: Any) -> Any:
        if carrying() is not None or current_guard() is None:
            return send(self, request)
        return guard_one_request_in_thread(self, send, request)

    return handle_request
