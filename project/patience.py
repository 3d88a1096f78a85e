"""Finish a request that changes something, also when its client has disconnected.

Django cancels a request whose client disconnects. That is right for a request that only reads. But
a person who presses Stop and closes the page has pressed Stop, and half of the work may be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["Patience"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Patience:
    """ASGI wrapper that hides a disconnect from the handler of a POST that has arrived whole.

    A client that leaves in the middle of its request has asked nothing: the handler sees that.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            receive = _patient(receive)
        await self._app(scope, receive, send)


def _patient(receive: _Receive) -> _Receive:
    is_whole = False

    async def receive_patiently() -> _Message:
        nonlocal is_whole
        message = await receive()
        if message["type"] == "http.request":
            is_whole = not message.get("more_body", False)
        elif message["type"] == "http.disconnect" and is_whole:
            await asyncio.Event().wait()  # until the handler is done and cancels this wait
        return message

    return receive_patiently
