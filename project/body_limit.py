"""Refuse bodies that are far too large before Django writes them to disk.

Django's ASGI handler spools the whole body into a temporary file before a view starts, however long
the body is. The API answers 413 exactly at RUNS_MAX_INPUT_BYTES. This outer limit, a little above
it, only keeps clients from filling the disk. It is plain ASGI, and knows no Django request.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["BodyLimit"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[Any, Any, Any], Awaitable[None]]

# A client that is still sending when the connection closes often sees a reset instead of the
# answer. So read and discard up to this many bytes first.
_DISCARD_BYTES = 64 * 1024 * 1024


class BodyLimit:
    """ASGI wrapper: 413 in the API's error shape for HTTP bodies of more than `max_bytes()`."""

    def __init__(self, app: _App, max_bytes: Callable[[], int]) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send
    ) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        limit = self._max_bytes()
        headers = dict(scope["headers"])
        if _declared_length(headers) > limit:
            # "Expect: 100-continue": the client waits for an answer and hasn't sent the body.
            if b"expect" not in headers:
                await _discard(receive)
            await _refuse(send, limit)
            return

        received = 0
        answered = False

        async def counting_receive() -> _Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _BodyTooLarge
            return message

        async def watching_send(message: _Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counting_receive, watching_send)
        except _BodyTooLarge:
            # Django reads the body before it answers, so it has not started to answer yet.
            if answered:
                raise
            await _discard(receive)
            await _refuse(send, limit)


class _BodyTooLarge(Exception):
    """Raised out of Django's reading of the body, to leave its handler."""


def _declared_length(headers: dict[bytes, bytes]) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError:
        return 0


async def _discard(receive: _Receive) -> None:
    discarded = 0
    while discarded < _DISCARD_BYTES:
        message = await receive()
        discarded += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def _refuse(send: _Send, limit: int) -> None:
    detail = f"The request's body is larger than {limit} bytes."
    body = json.dumps({"code": "input_too_large", "detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
