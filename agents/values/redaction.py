"""Take secrets out of all captured text: events, messages of errors, labels.

Two ways, one after the other: exact values that this process knows (``add_secret``), and patterns
of common secrets (``secret_patterns``). The patterns are a net, not a proof; they rather take out a
word too many.
Nothing here knows where secrets come from.
"""

from __future__ import annotations

import functools
import json
import threading
from typing import Final
from urllib.parse import quote, quote_plus

from .secret_patterns import LONGEST_KEY_END, PATTERNS, REDACTED, SECRET_KEY

__all__ = ["REDACTED", "add_secret", "forget_secrets", "is_secret_key", "redact"]

_SHORTEST_SECRET: Final = 8
_SHORTEST_FINDING: Final = 5  # pw=ab

_lock = threading.Lock()
_secrets: tuple[str, ...] = ()  # longest first: one may be part of another; replaced, not changed


def add_secret(value: str | None) -> None:
    """Take this exact value out of everything from now on, also JSON-escaped or URL-quoted.

    Ignored if it has fewer than 8 characters (or is None): common words would vanish.
    """
    global _secrets
    if not value or len(value) < _SHORTEST_SECRET or value in REDACTED:
        return
    forms = {value, json.dumps(value)[1:-1], quote(value, safe=""), quote_plus(value)}
    with _lock:
        _secrets = tuple(sorted({*_secrets, *forms}, key=len, reverse=True))


def forget_secrets() -> None:
    """Forget the values that ``add_secret`` was given: for tests."""
    global _secrets
    with _lock:
        _secrets = ()


def redact(text: str) -> str:
    """Replace secrets by ``[redacted]``; names of keys, headers and users stay readable.

    Redact before you cut: half a secret is not recognised. Takes some microseconds for a
    kilobyte of ordinary text.
    """
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    if len(text) < _SHORTEST_FINDING:
        return text
    lowered = text.lower()
    for pattern in PATTERNS:
        for mark in pattern.marks:  # twice as fast as any()
            if mark in text:
                break
        else:
            continue
        anchors = [anchor for anchor in pattern.anchors if anchor in lowered]
        if anchors:
            text = pattern.hide(text, lowered, anchors)
            lowered = text.lower()
    return text


def is_secret_key(key: str) -> bool:
    """Say whether a key names a secret: ``DB_PASSWORD``, ``accessToken``, ``X-Api-Key``.

    The end of the name decides, so that ``token_type`` and ``max_tokens`` name none.
    """
    return _ends_like_a_secret(key[-LONGEST_KEY_END:])


@functools.lru_cache(maxsize=4096)  # events have the same few keys again and again
def _ends_like_a_secret(end: str) -> bool:
    return SECRET_KEY.search(end) is not None
