"""Servers that keep a client waiting before it can send anything."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

__all__ = ["FullServer", "SilentServer"]


class SilentServer:
    """Accepts connections and says nothing, so that a TLS handshake does not end.

    Attributes:
        greeted: a client has sent its first bytes.
        left: that client has closed its connection.
    """

    def __init__(self) -> None:
        self.greeted = threading.Event()
        self.left = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # closed before anybody came
            return
        with connection:
            while True:
                try:
                    said = connection.recv(65_536)
                except ConnectionResetError:
                    said = b""
                if not said:
                    break
                self.greeted.set()
        self.left.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


class FullServer:
    """Has no room for another connection, so that one more waits to be established."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers: list[socket.socket] = []

    def __enter__(self) -> Self:
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for filler in self._fillers:
            filler.close()
        self._listener.close()
