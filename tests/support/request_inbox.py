"""An HTTP server that keeps the requests that it receives, and answers at once."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.page_server import PageServer

__all__ = ["RequestInbox"]


class _Server(ThreadingHTTPServer):
    block_on_close = False  # clients that were killed keep their connections half open
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that is killed: these walks kill some."""


class RequestInbox(PageServer):
    """Listens on a port of its own; ``received`` has the query of each request, in order."""

    server_class = _Server

    def __init__(self) -> None:
        super().__init__({"/": ({}, b"ok")})

    @property
    def received(self) -> list[dict[str, str]]:
        return [_query_of(request.split(" ", 2)[1]) for request in list(self.requests)]


def _query_of(target: str) -> dict[str, str]:
    query = parse_qs(urlsplit(target).query)
    return {name: values[0] for name, values in query.items()}
