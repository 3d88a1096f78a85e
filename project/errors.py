"""Errors outside the API's views: its JSON shape for programs, Django's pages for people."""

from __future__ import annotations

import re

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import csrf, defaults

__all__ = [
    "bad_request",
    "csrf_failure",
    "no_such_address",
    "not_found",
    "permission_denied",
    "server_error",
]

_API_PATH = re.compile(r"/(?:runs|agents|api|api-token|health)(?:/|$)")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer 400, for requests that Django itself refuses (a foreign Host, for one)."""
    if _is_for_a_program(request):
        return _json(400, "bad_request", "The request could not be understood.")
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer 403."""
    if _is_for_a_program(request):
        return _json(403, "permission_denied", "You may not do this.")
    return defaults.permission_denied(request, exception)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """Answer 403 for a form or a session's call without its CSRF token."""
    if _is_for_a_program(request):
        return _json(403, "csrf_failed", reason or "The CSRF token is missing or wrong.")
    return csrf.csrf_failure(request, reason)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer 404."""
    if _is_for_a_program(request):
        return _json(404, "not_found", "There is nothing at this address.")
    return defaults.page_not_found(request, exception)


def no_such_address(request: HttpRequest) -> HttpResponse:
    """Answer 404 as JSON; a view, because in debug Django shows programs its own page."""
    return _json(404, "not_found", "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Answer 500; what happened is in the log."""
    if _is_for_a_program(request):
        return _json(500, "server_error", "The server failed; its log says why.")
    return defaults.server_error(request)


def _is_for_a_program(request: HttpRequest) -> bool:
    if _API_PATH.match(request.path_info):
        return True
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


def _json(status: int, code: str, detail: str) -> HttpResponse:
    return JsonResponse({"code": code, "detail": detail}, status=status)
