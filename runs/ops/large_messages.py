"""uvicorn's WebSockets, with large messages sent piece by piece.

uvicorn copies a whole message into the connection's buffer. A message of megabytes to a client that
does not read would keep a copy for each such client. RFC 6455 (section 5.4) lets a message be sent
as fragments, which every client puts together again. Each waits until the client has read on, so
that clients share the message, and the buffer of each holds a piece of it.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

__all__ = ["LARGE_CHARACTERS", "LargeMessagesProtocol"]

LARGE_CHARACTERS = 128 * 1024
_PIECE_CHARACTERS = 64 * 1024


class LargeMessagesProtocol(WebSocketsSansIOProtocol):
    async def send(self, message: Any) -> None:
        text = message.get("text") if message["type"] == "websocket.send" else None
        if text is None or len(text) <= LARGE_CHARACTERS or not self.handshake_complete:
            await super().send(message)
            return
        for start in range(0, len(text), _PIECE_CHARACTERS):
            await self.writable.wait()
            if self.disconnected or self.close_sent:
                raise ClientDisconnected
            end = start + _PIECE_CHARACTERS
            piece, is_last = text[start:end].encode(), end >= len(text)
            try:
                if start == 0:
                    self.conn.send_text(piece, fin=is_last)
                else:
                    self.conn.send_continuation(piece, fin=is_last)
            except InvalidState as error:  # the client has closed
                raise ClientDisconnected from error
            self.transport.write(b"".join(self.conn.data_to_send()))
