"""Which keys, addresses and names of models can work.

Each function returns what is wrong with a value, as the end of a sentence, or None. It never
repeats the value, which may be a secret. This module knows no setting's name.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from agents.tools.http.proxies import parts_of, proxy_problem

__all__ = [
    "address_problem",
    "header_problem",
    "key_problem",
    "name_problem",
    "pair_problem",
    "proxy_problem",
]

_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
_PATH: Final = "/chat/completions"


def key_problem(key: str) -> str | None:
    """Say why a key can't be sent in a header, or is none."""
    if problem := _text_problem(key):
        return problem
    if not key.isascii():
        return "has a character that is not ASCII, which no header can have"
    if any(map(str.isspace, key)):
        return "has a blank inside, which no key has"
    return None


def name_problem(name: str) -> str | None:
    """Say why no model can have such a name."""
    return _text_problem(name)


def address_problem(url: str) -> str | None:
    """Say why requests can't be sent to an endpoint at this address; "" is OpenAI's."""
    if not url:
        return None
    if problem := _text_problem(url):
        return problem
    if any(map(str.isspace, url)):
        return "has a blank inside"
    parts = parts_of(url)
    if parts is None:
        return "is not an address that begins with http:// or https:// and has a host"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return "has ? or #; it must end with its path, such as /v1"
    if parts.path.rstrip("/").endswith(_PATH):
        return f"ends with {_PATH}; it must end before that, with /v1 or the like"
    return None


def pair_problem(url: str, key: str) -> str | None:
    """Say why requests to this address can't carry this key."""
    if key and "@" in urlsplit(url).netloc:
        return "has a user, and there is a key as well: a request carries one of them"
    return None


def header_problem(name: object, value: object) -> str | None:
    """Say why this can't be a header of a request."""
    for text in (name, value):
        if isinstance(text, str) and not (text.isascii() and text.isprintable()):
            return "is no header: only printable ASCII characters can be sent"
    return None


def _text_problem(text: str) -> str | None:
    if text != text.strip():
        return "has blanks around it"
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        return "has quotes around it"
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in text):
        return "has a control character inside, such as a line break"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "has bytes that are not UTF-8"
    return None
