"""Middleware for every response: a strict Content-Security-Policy, and the static files."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware

__all__ = ["StaticFilesMiddleware", "content_security_policy"]

# No page has an inline script or style. `data:` images are small icons in style sheets (Swagger's,
# the admin's).
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

# Django's debug pages for these have inline styles. (Django 6 has a middleware that exempts the
# same two; it can replace this one when Django 5.2 is no longer supported.)
_DEBUG_PAGES = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR})

_GetResponse = Callable[[HttpRequest], HttpResponseBase]


def content_security_policy(get_response: _GetResponse) -> _GetResponse:
    """Send the policy with every response that doesn't carry one already."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not (settings.DEBUG and response.status_code in _DEBUG_PAGES):
            response.headers.setdefault("Content-Security-Policy", _POLICY)
        return response

    return answer


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise without its warning about a missing STATIC_ROOT, which ``collectstatic`` makes."""

    def add_files(self, root: str | Path, prefix: str | None = None) -> None:
        if Path(root).is_dir():
            super().add_files(root, prefix)
