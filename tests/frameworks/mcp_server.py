"""A server of MCP on 127.0.0.1, over streamable HTTP, that notes what reaches it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from mcp.server.mcpserver import MCPServer

__all__ = ["ToolServer"]

SECONDS = 10.0


class ToolServer:
    """``with ToolServer() as server:`` and then ``server.url``.

    Its tool ``look(what)`` answers at once, ``wait(what)`` after ``release()``.

    Attributes:
        requests: the requests so far: ``tools/call look``, ``GET``, ``DELETE``, and so on.
        open_streams: how many GET requests are being answered.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.open_streams = 0
        self._changed = threading.Condition()
        self._released = threading.Event()
        mcp = MCPServer("things", log_level="ERROR")

        @mcp.tool()
        def look(what: str) -> str:
            """Look at a thing."""
            return f"{what} is fine"

        @mcp.tool()
        async def wait(what: str) -> str:
            """Wait for a thing."""
            await asyncio.to_thread(self._released.wait, SECONDS)
            return f"{what} is fine"

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/mcp"
        app = self._noting(mcp.streamable_http_app())
        config = uvicorn.Config(
            app, log_config=None, lifespan="on", timeout_graceful_shutdown=1, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="mcp-server", daemon=True
        )

    def count(self, name: str) -> int:
        return self.requests.count(name)

    def release(self) -> None:
        self._released.set()

    async def until(self, name: str, count: int = 1) -> None:
        """Wait for the ``count``-th request of a name."""

        def wait() -> None:
            with self._changed:
                if not self._changed.wait_for(lambda: self.count(name) >= count, SECONDS):
                    raise AssertionError(f"no {name} no. {count} in {SECONDS:g} s: {self.requests}")

        await asyncio.to_thread(wait)

    def _note(self, name: str, streams: int = 0) -> None:
        with self._changed:
            self.requests.append(name)
            self._changed.notify_all()

    def _noting(self, app: Any) -> Any:
        """Note each request of ``app`` as soon as its body is here."""

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            body = b""

            async def received() -> Any:
                nonlocal body
                message = await receive()
                body += message.get("body", b"")
                if message["type"] == "http.request" and not message.get("more_body"):
                    self._note(_name(scope["method"], body))
                return message

            if scope["method"] == "GET":
                self._note("GET")
                self.open_streams += 1
                try:
                    await app(scope, receive, send)
                finally:
                    self.open_streams -= 1
            elif scope["method"] == "DELETE":
                self._note("DELETE")
                await app(scope, receive, send)
            else:
                await app(scope, received, send)

        return noting

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self._server.should_exit = True
        self._thread.join(SECONDS)
        self._socket.close()


def _name(method: str, body: bytes) -> str:
    message = json.loads(body or b"{}")
    tool = message.get("params", {}).get("name", "")
    return f"{message.get('method', 'answer')} {tool}".strip()
