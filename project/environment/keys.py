"""The secret key: which ones are refused, and the keys that are derived from it."""

from __future__ import annotations

import re

from django.utils.crypto import salted_hmac

__all__ = ["derived_key", "weakness_of"]

_FEWEST_CHARACTERS = 32
_FEWEST_DIFFERENT = 5  # as in Django's own check
_PLACEHOLDERS = (
    *("changeme", "changethis", "replaceme", "replacethis", "placeholder"),
    *("djangoinsecure", "yoursecret", "longrandomtext"),
)


def weakness_of(key: str) -> str:
    """Say why a secret key can be guessed; empty if it looks random."""
    if len(key) < _FEWEST_CHARACTERS:
        return f"it has fewer than {_FEWEST_CHARACTERS} characters"
    if len(set(key)) < _FEWEST_DIFFERENT:
        return f"it has fewer than {_FEWEST_DIFFERENT} different characters"
    letters = re.sub(r"[^a-z0-9]", "", key.lower())
    if any(word in letters for word in _PLACEHOLDERS):
        return "it is a placeholder"
    return ""


def derived_key(secret_key: str, purpose: str) -> str:
    """Return a key for one purpose. It does not reveal the secret key, nor other such keys."""
    return salted_hmac("halting", purpose, secret_key, algorithm="sha256").hexdigest()
