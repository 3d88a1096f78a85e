"""Every error of the API in its one shape: {code, detail, fields?}.

Domain errors are mapped to HTTP here and nowhere else. What isn't known here is a bug: Django logs
it and answers 500 (project/errors.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

from agents.exceptions import AgentNotFound
from agents.exceptions import InvalidInput as InvalidAgentInput
from agents.values.jsonable import child_path, clean_text
from runs.conf import conf
from runs.db.transactions import is_away
from runs.exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    ModeNotAvailable,
    PriorityNotPermitted,
    RunAlreadyFinished,
    RunError,
    StopNotPermitted,
)
from runs.wire import get_for_wire, run_as_dict

__all__ = [
    "CODES",
    "CsrfFailed",
    "InvalidFilter",
    "InvalidInput",
    "InvalidJson",
    "body_too_large",
    "exception_handler",
    "flat",
]

logger = logging.getLogger(__name__)

Fields = Mapping[str, Sequence[str]]

#: HTTP status -> what ``code`` can be. The words are a contract.
CODES: dict[int, tuple[str, ...]] = {
    400: ("invalid_json", "invalid_input", "invalid_filter", "mode_not_available", "bad_request"),
    401: ("not_authenticated",),
    403: ("permission_denied", "csrf_failed"),
    404: ("not_found",),
    405: ("method_not_allowed",),
    406: ("not_acceptable",),
    409: ("run_already_finished",),
    413: ("input_too_large",),
    415: ("unsupported_media_type",),
    422: ("idempotency_mismatch",),
    429: ("throttled",),
    503: ("unavailable",),
}

_LONGEST_MESSAGE = 500  # characters; messages quote what came
_MOST_FIELDS = 100


class _BadRequest(exceptions.APIException):
    """400 with ``fields``: what is wrong with each."""

    status_code = 400

    def __init__(self, detail: str, fields: Fields | None = None) -> None:
        super().__init__(detail)
        self.fields = dict(fields or {})


class InvalidJson(_BadRequest):
    """The body is not JSON."""

    default_code = "invalid_json"


class _InvalidFields(_BadRequest):
    """The message is made of the first field, unless it is given."""

    def __init__(self, fields: Fields | None = None, detail: str = "") -> None:
        fields = fields or {}
        super().__init__(detail or _summary(fields), fields)


class InvalidInput(_InvalidFields):
    """Something in the body, or the Idempotency-Key, is wrong."""

    default_code = "invalid_input"


class InvalidFilter(_InvalidFields):
    """A query parameter is wrong."""

    default_code = "invalid_filter"


class CsrfFailed(exceptions.PermissionDenied):
    """A session's call came without its CSRF token."""

    default_code = "csrf_failed"


def body_too_large() -> InputTooLarge:
    """Return the error for a body beyond the limit."""
    return InputTooLarge(f"The request's body is larger than {conf().max_input_bytes:,} bytes.")


def flat(detail: Any, path: str = "") -> dict[str, list[str]]:
    """Flatten what a DRF serializer says is wrong: path -> messages."""
    return {place: list(messages) for place, messages in _flattened(detail, path)}


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Answer an exception that left a view; None for bugs."""
    answer = _translate(exc)
    if answer is None:
        return None
    body: dict[str, Any] = {
        "code": answer.code,
        "detail": clean_text(answer.detail, _LONGEST_MESSAGE),
    }
    if answer.fields:
        # Names and messages quote the client, who may have sent what can't even be encoded.
        body["fields"] = {
            clean_text(name): [clean_text(message, _LONGEST_MESSAGE) for message in messages]
            for name, messages in list(answer.fields.items())[:_MOST_FIELDS]
        }
    if isinstance(exc, RunAlreadyFinished):
        body["run"] = run_as_dict(get_for_wire(exc.run.pk))
    return Response(body, status=answer.status, headers=answer.headers)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    code: str
    detail: str
    fields: Fields = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


_RUN_ERRORS: dict[type[RunError], int] = {
    IdempotencyMismatch: 422,
    InputTooLarge: 413,
    ModeNotAvailable: 400,
    PriorityNotPermitted: 403,
    RunAlreadyFinished: 409,
    StopNotPermitted: 403,
}

#: DRF's words, where ours differ.
_OUR_CODES = {"authentication_failed": "not_authenticated", "parse_error": "invalid_json"}


def _translate(exc: Exception) -> _Answer | None:
    match exc:
        case exceptions.ValidationError():
            fields = flat(exc.detail)
            return _Answer(400, "invalid_input", _summary(fields), fields)
        case exceptions.APIException():
            return _translate_api_exception(exc)
        case AgentNotFound():
            return _Answer(400, "invalid_input", str(exc), {"agent": [str(exc)]})
        case InvalidAgentInput():
            return _Answer(400, "invalid_input", str(exc), exc.fields)
        case RunError() if type(exc) in _RUN_ERRORS:
            return _Answer(_RUN_ERRORS[type(exc)], exc.code, str(exc))
        case Http404() | ObjectDoesNotExist():
            return _Answer(404, "not_found", "There is nothing here that you may see.")
        case PermissionDenied():
            return _Answer(403, "permission_denied", "You may not do this.")
        case RequestDataTooBig():
            return _translate(body_too_large())
        case SuspiciousOperation() | BadRequest() | MultiPartParserError():
            return _Answer(400, "bad_request", "The request could not be understood.")
        case db.Error():
            return _unavailable(exc)
    return None


def _translate_api_exception(exc: exceptions.APIException) -> _Answer:
    headers = {}
    if challenge := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if (wait := getattr(exc, "wait", None)) is not None:
        headers["Retry-After"] = str(wait)
    code = getattr(exc.detail, "code", exc.default_code)
    # A reason more exact than the class's (DRF has some for tokens) is no code of ours.
    if code not in CODES.get(exc.status_code, (code,)):
        code = exc.default_code
    fields = exc.fields if isinstance(exc, _BadRequest) else {}
    return _Answer(exc.status_code, _OUR_CODES.get(code, code), str(exc.detail), fields, headers)


def _unavailable(exc: Exception) -> _Answer:
    """The database refused. Each service is one transaction, so nothing was half done."""
    if is_away(exc):
        logger.warning("the database does not answer (%s)", type(exc).__name__)
    else:
        logger.error("the database refused a statement", exc_info=exc)
    detail = "The database does not answer. Nothing was changed; try again."
    return _Answer(503, "unavailable", detail, headers={"Retry-After": "1"})


def _summary(fields: Fields) -> str:
    if not fields:
        return "The request is not valid."
    path, messages = next(iter(fields.items()))
    more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
    return f"{path}: {messages[0]}{more}"


def _flattened(detail: Any, path: str) -> Iterator[tuple[str, Sequence[str]]]:
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            is_whole = name == "non_field_errors"
            place = path if is_whole else child_path(path, name) if path else clean_text(name, 100)
            yield from _flattened(inner, place)
    elif isinstance(detail, list) and any(isinstance(item, (Mapping, list)) for item in detail):
        for index, inner in enumerate(detail):
            yield from _flattened(inner, child_path(path, index))
    elif isinstance(detail, list):
        yield path or "body", [str(message) for message in detail]
    else:
        yield path or "body", [str(detail)]
