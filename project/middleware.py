"""What every response gets: a strict Content-Security-Policy, and the static files themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from whitenoise.middleware import WhiteNoiseMiddleware

__all__ = ["StaticFilesMiddleware", "content_security_policy"]

# No inline script or style anywhere; `data:` images are small icons inside style sheets
# (Swagger's, the admin's).
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)

# Django's debug pages for these bring their own inline styles. (Django 6's middleware, which can
# replace this one when 5.2 is no longer supported, exempts the same two.)
_DEBUG_PAGES = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR})

_GetResponse = Callable[[HttpRequest], Any]


@sync_and_async_middleware
def content_security_policy(get_response: _GetResponse) -> _GetResponse:
    """Send the policy with every response that doesn't carry one already."""

    def add_policy(response: HttpResponseBase) -> HttpResponseBase:
        if not (settings.DEBUG and response.status_code in _DEBUG_PAGES):
            response.headers.setdefault("Content-Security-Policy", _POLICY)
        return response

    if iscoroutinefunction(get_response):

        async def on_loop(request: HttpRequest) -> HttpResponseBase:
            return add_policy(await get_response(request))

        return on_loop

    def in_thread(request: HttpRequest) -> HttpResponseBase:
        return add_policy(get_response(request))

    return in_thread


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise that doesn't force every request of an ASGI server through a thread.

    WhiteNoise's own middleware is synchronous: under ASGI, Django would run it, and all that
    comes after it, in a thread per request, and complain about its synchronous file iterator.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: _GetResponse) -> None:
        super().__init__(get_response)
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer(request)
        response: HttpResponseBase = super().__call__(request)
        return response

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(self.static_prefix):
            file_response = await asyncio.to_thread(self._find, request)
            if file_response is not None:
                file_response.streaming_content = _read_in_threads(
                    cast("Iterator[bytes]", file_response.streaming_content)
                )
                return file_response
        response: HttpResponseBase = await self.get_response(request)
        return response

    def _find(self, request: HttpRequest) -> FileResponse | None:
        if self.autorefresh:
            static_file = self.find_file(request.path_info)
        else:
            static_file = self.files.get(request.path_info)
        return None if static_file is None else self.serve(static_file, request)

    def add_files(self, root: str | Path, prefix: str | None = None) -> None:
        """Add a directory, if there is one: without `collectstatic` there is no STATIC_ROOT."""
        if Path(root).is_dir():
            super().add_files(root, prefix)


async def _read_in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
