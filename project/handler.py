"""Django's ASGI handler, with one trip to a thread for each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import cast

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

__all__ = ["Handler"]


class Handler(ASGIHandler):
    """Answers a request in one thread, from the first middleware to the last line of the view.

    Django's own handler changes to the request's thread and back for each middleware, before the
    view and after it: a dozen changes of thread, which cost a POST some two milliseconds. All
    middleware and views of this project are synchronous. The loop sends what a view streams, as in
    Django's own handler.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await sync_to_async(self.get_response)(request)
        if isinstance(response, StreamingHttpResponse) and not response.is_async:
            chunks = cast("Iterator[bytes]", response.streaming_content)
            response.streaming_content = _read_in_threads(chunks)
        return response


async def _read_in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
