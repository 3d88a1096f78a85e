"""Take secrets out of all captured text: events, messages of errors, labels.

Two ways, one after the other: exact values that this process knows (``add_secret``), and patterns
of common secrets. The patterns are a net, not a proof; they rather take out a word too many.

Text comes from models and web pages, so no pattern may take more than linear time: each run of
characters is entered from one end only, and no quantifier that has matched gives back (``*+``).
Nothing here knows where secrets come from.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, quote_plus

__all__ = ["REDACTED", "add_secret", "forget_secrets", "is_secret_key", "redact"]

REDACTED: Final = "[redacted]"
_SHORTEST_SECRET: Final = 8

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
    for pattern in _PATTERNS:
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
    return _ends_like_a_secret(key[-_LONGEST_KEY_END:])


@functools.lru_cache(maxsize=4096)  # events have the same few keys again and again
def _ends_like_a_secret(end: str) -> bool:
    return _SECRET_KEY.search(end) is not None


# Names of secrets, from the last telling word on; a lookbehind checks the words before it, so that
# searching for the anchor finds a name.
_BETWEEN: Final = "[_ -]"
_KINDS_OF_KEY: Final = (
    *("access", "account", "api", "auth", "encryption"),
    *("master", "private", "secret", "shared", "signing"),
)


def _preceded_by(words: tuple[str, ...]) -> str:
    return "|".join(f"(?<={word})|(?<={word}{_BETWEEN})" for word in words)


_NAME: Final = rf"""
    (?: pass (?: word | wd | phrase | code ) | pwd | secret | credentials?
      | session {_BETWEEN}? (?: id | key )
      | (?: {_preceded_by(_KINDS_OF_KEY)} ) key )
"""
_SECRET_KEY: Final = re.compile(
    rf"(?: {_NAME} s? | token | authorization | cookies? ) [0-9]{{0,3}} $",
    re.VERBOSE | re.IGNORECASE,
)
_LONGEST_KEY_END: Final = 40

# Said of keys, but no secrets: code, schemas, settings that are not set.
_ORDINARY: Final = frozenset(
    {
        *("null", "none", "nil", "true", "false", "undefined", "optional", "required"),
        *("str", "string", "bytes", "int", "integer", "number"),
    }
)


def _hide_assigned(match: re.Match[str]) -> str:
    value, quote_mark = match["value"], match["quote"]
    if not value or value == REDACTED:
        return match[0]
    if quote_mark:
        return f"{match['key']}{quote_mark}{REDACTED}"
    core = value.rstrip(")]}:")
    if not core or core.lower() in _ORDINARY or f"{core}]" == REDACTED:
        return match[0]
    name = match["name"].lower()
    if name == "token" and re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", core):  # a count, a cost
        return match[0]
    if name == "pwd" and core.startswith("/"):  # the working directory
        return match[0]
    return f"{match['key']}{REDACTED}{value[len(core) :]}"


class _Pattern:
    """How one kind of secret looks.

    Searching for fixed texts is far quicker than a regular expression, so that one is only tried
    where its anchor stands.

    Args:
        marks: texts without one of which it can't match; quick to look for, so they come first.
        anchors: lower-case texts with one of which each match starts.
    """

    def __init__(
        self,
        marks: tuple[str, ...],
        anchors: tuple[str, ...],
        regex: str,
        replacement: Callable[[re.Match[str]], str] = lambda match: REDACTED,
        flags: int = 0,
    ) -> None:
        self.marks = marks
        self.anchors = anchors
        self.regex = re.compile(regex, re.VERBOSE | flags)
        self.replacement = replacement

    def hide(self, text: str, lowered: str, anchors: list[str]) -> str:
        """Replace every match in ``text``; ``anchors`` are those that it has."""
        if len(lowered) != len(text):  # a few letters become two when lowered
            return self.regex.sub(self.replacement, text)
        places = re.compile("|".join(map(re.escape, anchors))).finditer(lowered)
        parts: list[str] = []
        end = 0
        for place in places:
            if place.start() < end:
                continue
            match = self.regex.match(text, place.start())
            if match is not None:
                parts += (text[end : match.start()], self.replacement(match))
                end = match.end()
        parts.append(text[end:])
        return "".join(parts)


def _keep_name(match: re.Match[str]) -> str:
    return f"{match['key']}{REDACTED}"


# Quotes around a name or before a value, perhaps of bytes, perhaps escaped: JSON inside JSON.
_OPENING: Final = r""" (?: b? \\{0,4} ["'] )? """
_CLOSING: Final = r""" (?: \\{0,4} ["'] )? """
_START: Final = r""" (?: (?<! [A-Za-z0-9] ) | (?<= \\[nrt] ) ) """

_PATTERNS: Final = (
    _Pattern(
        ("-----BEGIN ",),
        ("-----begin ",),
        # Up to its end, or as far as the text goes if that was cut off.
        r"""
        -----BEGIN[ ] [A-Z0-9 ]{0,40} PRIVATE[ ]KEY (?: [ ]BLOCK )? -----
        (?: [^-] | - (?! ---- ) )*+
        (?: -----END[ ] [A-Z0-9 ]{0,40} PRIVATE[ ]KEY (?: [ ]BLOCK )? ----- )?
        """,
    ),
    _Pattern(
        ("-",),
        ("sk-", "xox", "glpat-"),
        # A digit in sk-...: there are words that end in "sk-".
        rf"""
        {_START}
        (?: sk- (?= [A-Za-z_-]{{0,60}} [0-9] | [A-Za-z]{{20}} ) [A-Za-z0-9_-]{{8,}}+
          | xox[abeoprs]- [A-Za-z0-9-]{{10,}}+
          | glpat- [A-Za-z0-9_-]{{16,}}+ )
        """,
    ),
    _Pattern(
        ("_",),
        ("sk_", "rk_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_"),
        rf"""
        {_START}
        (?: [sr]k_ (?: live | test ) _ [A-Za-z0-9]{{10,}}+
          | gh[pousr]_ [A-Za-z0-9]{{16,}}+
          | github_pat_ [A-Za-z0-9_]{{16,}}+
          | hf_ [A-Za-z0-9]{{20,}}+ )
        """,
    ),
    _Pattern(
        ("AKIA", "ASIA", "AIza"),
        ("akia", "asia", "aiza"),
        rf"""
        {_START}
        (?: (?: AKIA | ASIA ) [A-Z0-9]{{16}} (?! [A-Za-z0-9] ) | AIza [A-Za-z0-9_-]{{30,}}+ )
        """,
    ),
    _Pattern(
        ("eyJ",),  # a JSON Web Token: {" in base64
        ("eyj",),
        r"""
        (?: (?<! [A-Za-z0-9_-] ) | (?<= \\[nrt] ) )
        eyJ [A-Za-z0-9_-]{5,}+ [.] [A-Za-z0-9_-]{5,}+ [.] [A-Za-z0-9_-]*+
        """,
    ),
    _Pattern(
        ("://",),  # scheme://user:password@host
        ("://",),
        r"""
        (?P<key> :// [^\s/?\#:@"'<>\\]{0,200}+ : ) [^\s/?\#"'<>\\]{1,500} (?= @ )
        """,
        _keep_name,
    ),
    _Pattern(
        (":", "="),
        ("authorization",),  # a scheme, if any, and what follows it
        rf"""
        (?P<key> authorization {_CLOSING} [ \t]{{0,8}} (?: => | [:=] ) [ \t]{{0,8}} {_OPENING} )
        (?: [A-Za-z][A-Za-z0-9_-]{{0,30}}+ [ \t]++ )? [^\s"',;\\]++
        """,
        _keep_name,
        re.IGNORECASE,
    ),
    _Pattern(
        ("=",),
        ("cookie",),
        rf"""
        (?P<key> cookie {_CLOSING} [ \t]{{0,8}} : [ \t]{{0,8}} {_OPENING} )
        [^\s=;"',\\]{{1,100}}+ = [^\r\n"'\\]*+
        """,
        _keep_name,
        re.IGNORECASE,
    ),
    _Pattern(
        (" ", "\t"),
        ("bearer",),  # but not the bearer of bad news
        r"""
        (?P<key> bearer [ \t]{1,8} )
        (?= [A-Za-z._~+/=-]{0,60} [0-9] | [A-Za-z._~+/=-]{20} ) [A-Za-z0-9._~+/=-]{8,}+
        """,
        _keep_name,
        re.IGNORECASE,
    ),
    _Pattern(
        (":", "="),
        ("pass", "pwd", "secret", "credential", "session", "key", "token"),
        # A quoted value ends at its quote, or where the text was cut; any other at a delimiter.
        rf"""
        (?P<key> (?P<name> {_NAME} | token )
            [0-9]{{0,3}} {_CLOSING} \]? [ \t]{{0,8}} (?: := | => | ={{1,3}} | : ) [ \t]{{0,8}} )
        (?: (?P<quote> b? (?: (?P<escaped> \\{{1,4}}["'] ) | (?P<double> " ) | ' ) ) )?
        (?P<value>
            (?(escaped) [^"'\\\r\n]*+
              | (?(double) (?: [^"\\\r\n] | \\. )*+
                  | (?(quote) (?: [^'\\\r\n] | \\. )*+
                      | [^\s"',;&<>\\]{{2,}}+ ) ) )
        )
        """,
        _hide_assigned,
        re.IGNORECASE,
    ),
)
_SHORTEST_FINDING: Final = 6  # pwd=ab
