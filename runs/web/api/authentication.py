"""DRF's authentication by session, without the bytes that PostgreSQL refuses."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.authentication import SessionScheme
from drf_spectacular.openapi import AutoSchema
from rest_framework import authentication
from rest_framework.exceptions import PermissionDenied, UnsupportedMediaType
from rest_framework.request import Request

__all__ = ["SessionAuthentication"]

_FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


class SessionAuthentication(authentication.SessionAuthentication):
    """The session cookie; a request that changes something needs the CSRF token, too."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        # Cookies may be quoted, with any character in octal.
        if "\0" in request.COOKIES.get(settings.SESSION_COOKIE_NAME, ""):
            return None
        return super().authenticate(request)

    def enforce_csrf(self, request: Request) -> None:
        # The check would look for its token in the form, and use up the body.
        if request._request.content_type in _FORMS:
            raise UnsupportedMediaType(request._request.content_type)
        try:
            # Of DRF's request it would parse the JSON, and Django would refuse what is larger than
            # DATA_UPLOAD_MAX_MEMORY_SIZE, which is for forms.
            super().enforce_csrf(request._request)  # type: ignore[arg-type]
        except PermissionDenied as error:
            raise PermissionDenied(str(error.detail), "csrf_failed") from error


class _SessionScheme(SessionScheme):  # type: ignore[no-untyped-call]
    """Describes it for OpenAPI: drf-spectacular knows DRF's own class only."""

    target_class = SessionAuthentication  # type: ignore[assignment]
    priority = 1

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        definition: dict[str, Any] = super().get_security_definition(auto_schema)  # type: ignore[no-untyped-call]
        definition["description"] = "With `X-CSRFToken` on everything but GET."
        return definition
