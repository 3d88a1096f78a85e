"""Every error of the API in its one shape: {code, detail, fields?}.

Domain errors are mapped to HTTP here and nowhere else. Any other exception is a bug: Django logs it
and answers 500 (runs/web/error_pages.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from django import db
from django.core.exceptions import (
    BadRequest,
    ObjectDoesNotExist,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.http import Http404
from django.http.multipartparser import MultiPartParserError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import exception_handler as drf_exception_handler

from agents.exceptions import AgentNotFound, InvalidInput
from agents.values.jsonable import child_path, clean_text
from runs.conf import conf
from runs.db.transactions import is_away
from runs.db.writability import note_failure
from runs.exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    LimitsNotPermitted,
    PriorityNotPermitted,
    QuotaExceeded,
    RunAlreadyFinished,
    RunError,
    RunIsStopping,
    SignInRefused,
    StopNotPermitted,
)
from runs.web.feed import NoPlace
from runs.wire import NOTHING_LARGE, get_for_list, run_as_dict

__all__ = [
    "CODES",
    "InvalidFilter",
    "body_too_large",
    "describe_refusal",
    "exception_handler",
    "flat",
]

logger = logging.getLogger(__name__)

#: HTTP status -> what ``code`` can be. The words are a contract.
CODES: dict[int, tuple[str, ...]] = {
    400: ("invalid_json", "invalid_input", "invalid_filter", "bad_request"),
    401: ("not_authenticated",),
    403: ("permission_denied", "limits_not_permitted", "csrf_failed"),
    404: ("not_found",),
    405: ("method_not_allowed",),
    406: ("not_acceptable",),
    409: ("run_already_finished", "run_is_stopping"),
    413: ("input_too_large",),
    415: ("unsupported_media_type",),
    422: ("idempotency_mismatch",),
    429: ("throttled", "quota_feeds", "quota_queued", "quota_stored", "quota_waiters"),
    503: ("unavailable",),
}

_LONGEST_MESSAGE = 500  # characters; messages quote what came
_MOST_FIELDS = 100
_PLACE_SECONDS = 5  # after this, a place may be free

#: DRF's codes that the API names otherwise.
_OUR_CODES = {
    "authentication_failed": "not_authenticated",
    "invalid": "invalid_input",
    "parse_error": "invalid_json",
}
_STATUSES: dict[type[RunError], int] = {
    IdempotencyMismatch: 422,
    InputTooLarge: 413,
    PriorityNotPermitted: 403,
    RunAlreadyFinished: 409,
    RunIsStopping: 409,
    StopNotPermitted: 403,
}


class InvalidFilter(exceptions.ValidationError):
    """A query parameter is wrong. (In a body, it is a plain ``ValidationError``.)"""

    default_code = "invalid_filter"


class _Refusal(exceptions.APIException):
    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        fields: Mapping[str, Sequence[str]] | None = None,
        wait: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, code)
        self.more = more or {}
        self.status_code = status
        self.fields = fields or {}
        self.wait = wait


def body_too_large() -> InputTooLarge:
    """Return the error for a body beyond the limit."""
    return InputTooLarge(f"The request's body is larger than {conf().max_input_bytes:,} bytes.")


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Answer an exception that left a view; None for bugs."""
    error = _translate(exc)
    response = drf_exception_handler(error, context) if error else None
    if error is None or response is None:
        return None
    response.data = _as_dict(error)
    if isinstance(exc, RunAlreadyFinished):
        response.data["run"] = run_as_dict(get_for_list(exc.run.pk), NOTHING_LARGE)
    return response


def describe_refusal(exc: Exception) -> dict[str, Any]:
    """Return the error of one of many things in one request, as its answer shows it."""
    error = _translate(exc)
    if error is None:
        raise exc  # a bug
    return _as_dict(error)


def _as_dict(error: exceptions.APIException) -> dict[str, Any]:
    code: Any = error.get_codes()
    found: dict[str, Any] = {
        "code": _OUR_CODES.get(code, code),
        "detail": clean_text(str(error.detail), _LONGEST_MESSAGE),
    }
    if fields := getattr(error, "fields", None):
        # Names and messages quote the client, whose text may not even be encodable.
        found["fields"] = {
            clean_text(name): [clean_text(message, _LONGEST_MESSAGE) for message in messages]
            for name, messages in list(fields.items())[:_MOST_FIELDS]
        }
    return found | getattr(error, "more", {})


def _translate(exc: Exception) -> exceptions.APIException | None:
    match exc:
        case exceptions.ValidationError():
            fields = flat(exc.detail)
            path, messages = next(iter(fields.items()))
            more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
            return _Refusal(400, exc.default_code, f"{path}: {messages[0]}{more}", fields)
        case exceptions.APIException():
            return exc
        case SignInRefused():
            return _Refusal(429, exc.code, str(exc), wait=exc.seconds)
        case AgentNotFound():
            return _Refusal(400, "invalid_input", str(exc), {"agent": [str(exc)]})
        case InvalidInput():
            return _Refusal(400, "invalid_input", str(exc), exc.fields)
        case QuotaExceeded():
            amounts = {"used": exc.used, "allowed": exc.allowed}
            return _Refusal(429, exc.code, str(exc), wait=exc.retry_seconds, more=amounts)
        case LimitsNotPermitted():
            return _Refusal(403, exc.code, str(exc), exc.fields)
        case RunError() if type(exc) in _STATUSES:
            return _Refusal(_STATUSES[type(exc)], exc.code, str(exc))
        case NoPlace():
            amounts = {"used": exc.used, "allowed": exc.allowed}
            code = f"quota_{exc.what}"
            return _Refusal(429, code, str(exc), wait=_PLACE_SECONDS, more=amounts)
        case Http404() | ObjectDoesNotExist():
            return _Refusal(404, "not_found", "There is nothing here that you may see.")
        case PermissionDenied():
            return _Refusal(403, "permission_denied", "You may not do this.")
        case RequestDataTooBig():
            return _translate(body_too_large())
        case SuspiciousOperation() | BadRequest() | MultiPartParserError():
            return _Refusal(400, "bad_request", "The request could not be understood.")
        case db.Error():
            # Each service is one transaction, so nothing was half done.
            note_failure(exc)
            if is_away(exc):
                logger.warning("the database does not answer (%s)", type(exc).__name__)
            else:
                logger.error("the database refused a statement", exc_info=exc)
            detail = "The database does not answer. Nothing was changed; try again."
            return _Refusal(503, "unavailable", detail, wait=1)
    return None


def flat(detail: Any, path: str = "") -> dict[str, list[str]]:
    """Flatten the errors of a DRF serializer: path -> messages."""
    if not isinstance(detail, Mapping):
        return {path or "body": [str(message) for message in detail]}
    fields: dict[str, list[str]] = {}
    for name, inner in detail.items():
        if name == api_settings.NON_FIELD_ERRORS_KEY:  # the site's name for them
            place = path
        else:
            place = child_path(path, name) if path else clean_text(name, 100)
        fields |= flat(inner, place)
    return fields
