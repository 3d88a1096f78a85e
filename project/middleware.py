"""What every response gets: a strict Content-Security-Policy, and the static files themselves."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
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
    """WhiteNoise that does not mind a STATIC_ROOT that is not there: ``collectstatic`` makes it."""

    def add_files(self, root: str | Path, prefix: str | None = None) -> None:
        if Path(root).is_dir():
            super().add_files(root, prefix)
