"""What endpoints and gateways say when something went wrong, in all the forms that they use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from agents.values import redaction

__all__ = [
    "FAILED",
    "MAX_DETAIL",
    "detail_of",
    "remark_of",
    "reported_error",
    "status_of",
    "without_key",
]

MAX_DETAIL: Final = 500  # characters of an endpoint's error message

#: Words for ``finish_reason`` that mean: the endpoint gave up, and the reply is not whole.
FAILED: Final = frozenset({"error", "abort", "insufficient_system_resource"})

_MESSAGES: Final = ("message", "detail", "msg", "error_message", "description")


def reported_error(data: Mapping[str, Any]) -> object:
    """Return the error in an object of the endpoint's, None if it reports none."""
    error = data.get("error")
    if isinstance(error, Mapping) and not any(error.values()):
        error = None  # some gateways give each chunk an error without a word
    if error:
        return error
    is_error = data.get("object") == "error" or data.get("type") == "error"
    if is_error or (data.get("errors") and not data.get("choices")):
        return data
    return None


def detail_of(error: object) -> str:
    """Return the message in an endpoint's error: an object, a list, a text or something else."""
    if isinstance(error, list | tuple) and error:
        return detail_of(error[0])
    if isinstance(error, Mapping):
        for name in ("error", "errors"):
            inner = error.get(name)
            if inner and isinstance(inner, Mapping | str | list):
                return detail_of(inner)
        message = next((error[name] for name in _MESSAGES if error.get(name)), None)
        error = message or json.dumps(dict(error), default=str)
    text = " ".join(str(error or "").split())
    return "" if text.startswith("<") else text  # a proxy's page is no message


def remark_of(data: Mapping[str, Any]) -> str:
    """Return what an object says that is neither a reply nor called an error, or ""."""
    return next((detail_of(data[name]) for name in _MESSAGES if data.get(name)), "")


def status_of(error: object) -> int | None:
    """Return the HTTP status that an error in a reply names, None if it names none."""
    if isinstance(error, Mapping):
        for name in ("code", "status", "status_code"):
            code = error.get(name)
            if isinstance(code, str) and code.isdecimal() and len(code) == 3:
                code = int(code)
            if type(code) is int and 400 <= code <= 599:
                return code
    return None


def without_key(text: str, key: str) -> str:
    """Take out secrets and the key, whole or in part: some endpoints quote a key they refuse."""
    if len(key) >= 8:
        text = re.sub(re.escape(key[:6]) + r"[^\s'\",;]*", "[redacted]", text)
    text = redaction.redact(text)  # before it is cut: half a secret is not recognised
    return text if len(text) <= MAX_DETAIL else text[:MAX_DETAIL] + "…"
