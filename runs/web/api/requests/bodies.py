"""Read a JSON body.

Views call ``read`` instead of ``request.data``: DRF takes a body without a Content-Length (chunked)
for an empty one, has no limit, and lets RecursionError and lone surrogates through.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rest_framework import serializers
from rest_framework.exceptions import ParseError, UnsupportedMediaType, ValidationError
from rest_framework.request import Request

from agents.values.jsonable import check
from runs.conf import conf
from runs.web.api.errors import body_too_large

__all__ = ["read"]

#: The agent's schema checks this field in the same way; once is enough for 8 MiB.
_CHECKED_LATER = "input"

Shape = type[serializers.Serializer]


def read(request: Request, shape: Shape | Callable[[dict[str, Any]], Shape]) -> dict[str, Any]:
    """Return the validated body; an empty one counts as ``{}``.

    ``shape`` is the serializer's class, or chooses it by the body.

    Raises:
        InputTooLarge: more bytes than a body may have, whatever its Content-Length said.
        UnsupportedMediaType: it isn't declared as JSON.
        ParseError: it isn't JSON, or no object.
        ValidationError: it doesn't fit, or has values that databases can't hold.
    """
    body = _read_object(request)
    problems: dict[str, list[str]] = {}
    for name, value in body.items():
        if name != _CHECKED_LATER:
            problems |= check(value, name)
    if problems:
        raise ValidationError(problems)
    serializer_class = shape if isinstance(shape, type) else shape(body)
    serializer = serializer_class(data=body)
    serializer.is_valid(raise_exception=True)
    validated: dict[str, Any] = serializer.validated_data
    return validated


def _read_object(request: Request) -> dict[str, Any]:
    limit = conf().max_input_bytes
    raw = request._request.read(limit + 1)
    if len(raw) > limit:
        raise body_too_large()
    if not raw:
        return {}
    if request._request.content_type != "application/json":
        declared = request._request.content_type or "nothing"
        raise _unsupported(f"The body must be declared as application/json, not as {declared}.")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise _unsupported(f"The body must not be compressed; its Content-Encoding is {encoding}.")
    body = _parse(raw)
    if not isinstance(body, dict):
        raise ParseError("The body must be a JSON object.", "invalid_input")
    return body


def _unsupported(detail: str) -> UnsupportedMediaType:
    return UnsupportedMediaType("", detail)


def _parse(raw: bytes) -> Any:
    """Parse JSON in UTF-8 without a byte order mark, whatever ``charset`` is declared (RFC 8259).

    All messages are our own: those of Python's parser give advice to a Python programmer.
    """
    if raw.startswith(codecs.BOM_UTF8):
        raise ParseError("The body starts with a byte order mark; leave it out.")
    if (encoding := json.detect_encoding(raw)) != "utf-8":
        name = "UTF-16" if "16" in encoding else "UTF-32"
        raise ParseError(f"The body must be in UTF-8; it looks like {name}.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"The body is not valid UTF-8 (byte {error.start:,})."
        raise ParseError(message) from error
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ParseError(f"The body is not valid JSON: {_complaint(error, text)}") from error
    except RecursionError as error:
        raise ParseError("The body is nested too deep.") from error
    except _NotJson as error:
        raise ParseError(f"The body is not valid JSON: {error}") from error
    except ValueError as error:  # the only other one
        digits = sys.get_int_max_str_digits()
        raise ParseError(f"The body has a number of more than {digits:,} digits.") from error


class _NotJson(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJson(f"{name} is not a JSON value.")


#: What Python's parser says -> what we say.
_COMPLAINTS = {
    "Expecting value": "a value is expected",
    "Expecting property name enclosed in double quotes": "a key in double quotes is expected",
    "Expecting ':' delimiter": "a colon is expected",
    "Expecting ',' delimiter": "a comma or a closing bracket is expected",
    "Extra data": "there is more after its end",
    "Unterminated string starting at": "a text has no end that starts",
    "Invalid control character at": "a control character must be escaped",
    "Invalid \\escape": "there is no such escape",
    "Invalid \\uXXXX escape": "four hexadecimal digits are expected",
    "Illegal trailing comma before end of object": "a comma comes before the end of an object",
    "Illegal trailing comma before end of array": "a comma comes before the end of a list",
}


def _complaint(error: json.JSONDecodeError, text: str) -> str:
    said = error.msg.removesuffix(": ").rstrip(":")
    what = _COMPLAINTS.get(said, "it can't be read")
    if not text.strip():
        return "it is empty."
    where = f"in line {error.lineno:,}, column {error.colno:,}"
    if what == _COMPLAINTS["Expecting value"] and not text[error.pos :].strip():
        return f"it ends too early, {where}."
    return f"{what} {where}."
