"""Read a JSON body.

Views call ``read`` instead of ``request.data``: DRF takes a body without a Content-Length (chunked)
for an empty one, has no limit, and lets RecursionError and lone surrogates through.
"""

from __future__ import annotations

import json
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
        raise UnsupportedMediaType(request._request.content_type or "none")
    body = _parse(raw)
    if not isinstance(body, dict):
        raise ParseError("The body must be a JSON object.", "invalid_input")
    return body


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ParseError("The body is not valid UTF-8.") from error
    except RecursionError as error:
        raise ParseError("The body is nested too deep.") from error
    except ValueError as error:  # also for an integer with more digits than Python reads
        raise ParseError(f"The body is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
