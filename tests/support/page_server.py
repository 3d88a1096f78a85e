"""An HTTP server on loopback whose pages a test decides, byte by byte."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["PageServer"]


class PageServer:
    """``with PageServer({"/": ({"Content-Type": "text/plain"}, b"hello")}) as server:``

    A page is its headers and its body; a header's value may be a list. Other paths answer 404.

    Attributes:
        requests: the request lines and headers that arrived, as text.
    """

    server_class = ThreadingHTTPServer

    def __init__(
        self, pages: dict[str, tuple[dict[str, Any], bytes]], host: str = "127.0.0.1"
    ) -> None:
        self.pages = pages
        self.requests: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.requests.append(f"{self.requestline}\n{self.headers}")
                path = self.path.partition("?")[0]
                path = path.partition("://")[2].partition("/")[2] if "://" in path else path[1:]
                found = owner.pages.get(f"/{path}")
                headers, body = found or ({}, b"not found")
                self.send_response(headers.get(":status", 200) if found else 404)
                for name, value in headers.items():
                    for one in value if isinstance(value, list) else [value]:
                        if not name.startswith(":"):
                            self.send_header(name, one)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the client has read enough

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = self.server_class((host, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
