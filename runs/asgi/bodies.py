"""How large a request's body may be, and how long it may take to arrive.

Django writes a whole body to disk before a view starts, however long the body is, and however long
that takes. Until then the request has no thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from runs.conf import conf

__all__ = [
    "BodyRefused",
    "BodyTooLarge",
    "BodyTooSlow",
    "BoundedBody",
    "Message",
    "Receive",
    "discard",
    "most_bytes",
]

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# The API answers 413 exactly at RUNS_MAX_INPUT_BYTES. A body above this outer limit is an attack.
_MARGIN_BYTES = 1024 * 1024
# A client that is still sending when the connection closes often sees a reset instead of the
# answer. So read and discard up to this many bytes first.
_DISCARD_BYTES = 64 * 1024 * 1024
# A body may take so long, and longer if it is large: a second more for so many bytes that came.
_BODY_SECONDS = 20.0
_LEAST_BYTES_PER_SECOND = 16 * 1024


class BodyRefused(Exception):
    """Raised where Django reads the body, so before it has started to answer."""

    status: int
    code: str


class BodyTooLarge(BodyRefused):
    status = 413
    code = "input_too_large"


class BodyTooSlow(BodyRefused):
    status = 408
    code = "request_timeout"


def most_bytes() -> int:
    """Return how large the body of any request may be."""
    return conf().max_input_bytes + _MARGIN_BYTES


class BoundedBody:
    """An ASGI ``receive`` that refuses a body of more than ``limit`` bytes, and a slow one.

    Raises:
        BodyTooLarge, BodyTooSlow: by the call; BodyTooLarge also by ``check_declared``.
    """

    def __init__(self, scope: Any, receive: Receive, limit: int) -> None:
        self._headers = dict(scope["headers"])
        self._receive = receive
        self._limit = limit
        self._received = 0
        self._is_whole = False
        self._started = asyncio.get_running_loop().time()

    def check_declared(self) -> None:
        """Check the Content-Length, if there is one."""
        declared = self._headers.get(b"content-length", b"")
        if declared.isdigit():
            self._check(int(declared))

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()  # until the client leaves
        due = self._started + _BODY_SECONDS + self._received / _LEAST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout_at(due):
                message = await self._receive()
        except TimeoutError:
            detail = "The request's body did not arrive in time. Nothing was changed; try again."
            raise BodyTooSlow(detail) from None
        self._received += len(message.get("body", b""))
        self._check(self._received)
        self._is_whole = not message.get("more_body", False)
        return message

    async def discard_rest(self) -> None:
        """Discard what the client still sends, if it has begun."""
        # "Expect: 100-continue": the client waits for an answer and hasn't sent the body.
        if self._received or b"expect" not in self._headers:
            await discard(self._receive)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise BodyTooLarge(f"The request's body is larger than {self._limit} bytes.")


async def discard(receive: Receive) -> None:
    discarded, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            while more and discarded < _DISCARD_BYTES:
                message = await receive()
                discarded += len(message.get("body", b""))
                more = message.get("more_body", False)  # a disconnect has none
