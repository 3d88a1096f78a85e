"""Clients that leave before their answer, and clients that do not read it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from .bodies import Message, Receive

__all__ = ["LateDisconnect", "Send", "Unread"]

Send = Callable[[Message], Awaitable[None]]

# A client that takes longer for a piece of an answer, of 64 KiB, has gone or reads nothing.
_STUCK_SECONDS = 60.0
# When so much of answers has not been read, clients have less time for each piece.
_MOST_UNREAD_BYTES = 128 * 1024 * 1024
_HURRY_SECONDS = 2.0


class LateDisconnect:
    """An ASGI ``receive`` that hides a disconnect after the whole request, until ``reveal``.

    Django cancels a request whose client disconnects. That is right for a request that only reads.
    But a person who presses Stop and closes the page has pressed Stop, and half of the work may be
    done. When only the wait for an answer is left, it may be cancelled.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_whole = False
        self._is_revealed = asyncio.Event()

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._is_whole = not message.get("more_body", False)
        elif self._is_whole:
            await self._is_revealed.wait()  # or until the handler is done and cancels this
        return message

    def reveal(self) -> None:
        self._is_revealed.set()


class Unread:
    """The answers that are being sent, and how long their clients may take to read."""

    def __init__(self) -> None:
        self._bytes = 0

    @contextmanager
    def counted(self, size: int, send: Send) -> Iterator[Send]:
        """Count an answer of ``size`` bytes; give up on a client that does not read a piece."""
        self._bytes += size
        is_much = self._bytes > _MOST_UNREAD_BYTES
        try:
            yield _unless_stuck(send, _HURRY_SECONDS if is_much else _STUCK_SECONDS)
        finally:
            self._bytes -= size


def _unless_stuck(send: Send, seconds: float) -> Send:
    async def send_with_patience(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            # What Django expects when a client has left.
            raise asyncio.CancelledError from None

    return send_with_patience
