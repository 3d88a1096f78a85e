"""Errors outside the API's views: the API's JSON for programs, and pages for people.

The pages are drawn without the request: no session, no user, no database. They must work when
exactly these are broken.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import REASON_NO_CSRF_COOKIE
from django.template.loader import render_to_string
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.csrf import csrf_exempt

from runs.db.transactions import is_away
from runs.db.writability import note_failure
from runs.exceptions import SignInRefused

from . import addresses

__all__ = [
    "API_PREFIXES",
    "PROBE_URLCONF",
    "ErrorPagesMiddleware",
    "answer_to",
    "bad_request",
    "csrf_failure",
    "no_such_address",
    "not_found",
    "permission_denied",
    "server_error",
    "sign_in_refused",
    "unavailable",
]

logger = logging.getLogger(__name__)

#: How the paths of the API begin, after the site's prefix.
API_PREFIXES = r"(?:runs|agents|quotas|api|api-tokens?|health)(?:/|$)"
_API_PATH = re.compile(API_PREFIXES)
#: The addresses that programs ask a process about itself at: they have no pages.
PROBE_URLCONF = "runs.asgi.probe_urls"


def answer_to(request: HttpRequest, exception: Exception) -> HttpResponse | None:
    """Answer an exception that left a view; None for bugs, and for what Django itself answers.

    Django's debug page lists all addresses, which helps with an address that has no view. It does
    not help a reader who followed a link to a deleted run, or to a run of another user.
    """
    if isinstance(exception, Http404):
        return not_found(request, exception)
    if isinstance(exception, SignInRefused):
        return sign_in_refused(request, exception)
    return unavailable(request, exception) if is_away(exception) else None


class ErrorPagesMiddleware(MiddlewareMixin):
    """Answer 404 and 503 with our own pages, in debug too; for views that are not ours."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return answer_to(request, exception)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 400 to a request that Django itself refuses, such as one with a foreign Host."""
    return _answer(request, 400, "bad_request", "The request could not be understood.")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 403."""
    return _answer(request, 403, "permission_denied", "You may not do this.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer 403 to a form or a session's call without its CSRF token.

    People see this in a tab that stayed open while they signed in or out in another one.
    """
    if _is_for_a_program(request):
        return _json(403, "csrf_failed", reason or "The CSRF token is missing or wrong.")
    is_signing_in = request.path == addresses.sign_in()
    context = {
        # The sign-in page can be opened again, with its target. Other addresses may have no page.
        "again": request.get_full_path() if is_signing_in else "",
        "has_no_cookie": reason == REASON_NO_CSRF_COOKIE,
        "reason": reason if settings.DEBUG else "",
    }
    return _page(403, "csrf", context)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 404."""
    return _answer(request, 404, "not_found", "There is nothing at this address.")


@login_not_required
@csrf_exempt  # the check comes before the view, and would answer 403 to a program with a token
def no_such_address(request: HttpRequest) -> HttpResponse:
    """Answer 404 as JSON. This is a view since in debug mode Django shows programs its own page."""
    return _json(404, "not_found", "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer 500, or 503 if the database is away. The log has the error."""
    error = sys.exc_info()[1]
    if error is not None and is_away(error):  # raised in a middleware
        return unavailable(request, error)
    return _answer(request, 500, "server_error", "The server failed; its log says why.")


def unavailable(request: HttpRequest, error: BaseException) -> HttpResponse:
    """Answer 503: the same request may work in a moment."""
    note_failure(error)
    logger.warning("the database does not answer (%s)", type(error).__name__)
    detail = "The database does not answer. Nothing was changed; try again."
    response = _answer(request, 503, "unavailable", detail)
    response.headers["Retry-After"] = "1"
    return response


def sign_in_refused(request: HttpRequest, refusal: SignInRefused) -> HttpResponse:
    """Answer 429: too many wrong passwords, or too many sign-ins at once."""
    if _is_for_a_program(request):
        response = _json(429, refusal.code, str(refusal))
    else:
        context = {"seconds": refusal.seconds, "again": request.get_full_path()}
        response = _page(429, "429", context)
    response.headers["Retry-After"] = str(refusal.seconds)
    return response


def _answer(request: HttpRequest, status: int, code: str, detail: str) -> HttpResponse:
    is_for_a_program = _is_for_a_program(request)
    return _json(status, code, detail) if is_for_a_program else _page(status, str(status))


def _is_for_a_program(request: HttpRequest) -> bool:
    if getattr(request, "urlconf", "") == PROBE_URLCONF:
        return True
    prefix = addresses.prefix()
    if request.path.startswith(prefix) and _API_PATH.match(request.path, len(prefix)):
        return True
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


def _page(status: int, name: str, context: dict[str, Any] | None = None) -> HttpResponse:
    text = render_to_string(f"runs/errors/{name}.html", context)
    return HttpResponse(text, status=status, headers={"Cache-Control": "no-store"})


def _json(status: int, code: str, detail: str) -> HttpResponse:
    return JsonResponse({"code": code, "detail": detail}, status=status)
