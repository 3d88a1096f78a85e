"""How common secrets look: names that announce one, and texts that are one.

Text comes from models and web pages, so no pattern may take more than linear time: each run of
characters is entered from one end only, and no quantifier that has matched gives back (``*+``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST_KEY_END", "PATTERNS", "REDACTED", "SECRET_KEY"]

REDACTED: Final = "[redacted]"

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
    (?: pass (?: word | wd | phrase | code ) | pwd | (?<! [A-Za-z0-9] ) pw | secret | credentials?
      | session {_BETWEEN}? (?: id | key )
      | (?: {_preceded_by(_KINDS_OF_KEY)} ) key )
"""
SECRET_KEY: Final = re.compile(
    rf"""
    (?: {_NAME} s? | token | authorization | cookies? | signature
      | (?: (?<! [A-Za-z] ) | (?-i: (?<= [a-z] ) (?= [A-Z] ) ) )
        (?: pw | auth | sig | jwt | otp | dsn )
    ) [0-9]{{0,3}} $
    """,
    re.VERBOSE | re.IGNORECASE,
)
LONGEST_KEY_END: Final = 40

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
    if name in {"pwd", "pw"} and core.startswith("/"):  # the working directory
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
_ASSIGNED: Final = rf""" {_CLOSING} \]? [ \t]{{0,8}} (?: := | => | ={{1,3}} | : ) [ \t]{{0,8}} """

# Tokens that begin with the name of their issuer. After it come letters and digits, a digit among
# them: otherwise it is a name in a program.
_ISSUERS_WITH_DASH: Final = (
    *("gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glsoat-", "gloas-", "glagent-"),  # GitLab
    *("xapp-", "xwfp-", "pypi-", "xai-", "pplx-", "nvapi-", "tvly-", "GOCSPX-", "NRAK-", "HRKU-"),
    *("sq0atp-", "sq0csp-", "AGE-SECRET-KEY-", "EZAK-", "EZTK-"),
)
_ISSUERS_WITH_SCORE: Final = (
    *("npm_", "gsk_", "r8_", "fw_", "tgp_v1_", "lsv2_pt_", "lsv2_sk_", "pcsk_", "ntn_", "secret_"),
    *("dop_v1_", "doo_v1_", "dor_v1_", "lin_api_", "shpat_", "shpca_", "shppa_", "shpss_"),
    *("rubygems_", "dckr_pat_", "nfp_", "sbp_", "sb_secret_", "pscale_tkn_", "pscale_pw_"),
    *("pscale_oauth_", "glsa_", "glc_", "sntrys_", "sntryu_", "whsec_", "ATATT3xFf", "ATCTT3xFf"),
)
_ISSUERS_WITH_DOT: Final = ("SG.", "ya29.", "hvs.", "hvb.", "hvr.", "dp.pt.", "dp.st.", "dp.ct.")


def _any_of(texts: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, texts))


def _lowered(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


# The value of a signed address, or of a parameter with a short name: long, with a digit.
_SIGNED: Final = r"""
    (?= [A-Za-z_.~%+/=-]{0,60} [0-9] ) [A-Za-z0-9_.~%+/=-]
"""

PATTERNS: Final = (
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
          | (?: xoxe[.] )? xox[abeoprs]- [A-Za-z0-9-]{{10,}}+
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
        ("-",),
        _lowered(_ISSUERS_WITH_DASH),
        rf"""
        {_START} (?: {_any_of(_ISSUERS_WITH_DASH)} )
        (?= [A-Za-z_-]{{0,60}} [0-9] ) [A-Za-z0-9_-]{{16,}}+
        """,
    ),
    _Pattern(
        ("_", "TT3xFf"),
        _lowered(_ISSUERS_WITH_SCORE),
        rf"""
        {_START} (?: {_any_of(_ISSUERS_WITH_SCORE)} )
        (?= [A-Za-z]{{0,60}} [0-9] ) [A-Za-z0-9]{{20,}} [A-Za-z0-9_=+/-]*+
        """,
    ),
    _Pattern(
        _ISSUERS_WITH_DOT,
        _lowered(_ISSUERS_WITH_DOT),
        rf"""
        {_START} (?: {_any_of(_ISSUERS_WITH_DOT)} )
        (?= [A-Za-z_-]{{0,60}} [0-9] ) [A-Za-z0-9_-]{{16,}}+ (?: [.] [A-Za-z0-9_-]{{10,}}+ )?
        """,
    ),
    _Pattern(
        (":",),  # a bot of Telegram: its number stays
        (":",),
        r"""
        (?<= [0-9]{6} ) (?P<key> : )
        (?= [A-Za-z_-]{0,35} [0-9] ) [A-Za-z0-9_-]{35} (?! [A-Za-z0-9_-] )
        """,
        _keep_name,
    ),
    _Pattern(
        (".",),  # a bot of Discord: its number, in base64, stays
        (".",),
        r"""
        (?<= [A-Za-z0-9_-]{20} ) (?P<key> [.] ) [A-Za-z0-9_-]{6} [.] [A-Za-z0-9_-]{27,45}+
        (?! [A-Za-z0-9_.-] )
        """,
        _keep_name,
    ),
    _Pattern(
        ("/",),  # addresses that are secrets: a client that knows one can post
        ("hooks.slack.com/", "/api/webhooks/", "webhook.office.com/"),
        r"""
        (?P<key> hooks[.]slack[.]com/ (?: services | workflows | triggers ) /
          | /api/webhooks/ (?= [0-9] ) | webhook[.]office[.]com/ )
        [A-Za-z0-9_/@.-]{16,}+
        """,
        _keep_name,
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
        ("://",),  # scheme://token@host
        ("://",),
        r"""
        (?P<key> :// ) (?= [A-Za-z_-]{0,60} [0-9] ) [A-Za-z0-9_-]{20,200}+ (?= @ )
        """,
        _keep_name,
    ),
    _Pattern(
        (":", "="),  # X-Amz-Signature=..., sig=..., "signature": "..."
        ("signature", "sig", "hmac", "auth"),
        rf"""
        (?P<key> (?: signature | (?<! [A-Za-z0-9] ) (?: sig | hmac | auth ) )
            {_ASSIGNED} {_OPENING} )
        {_SIGNED}{{12,}}+
        """,
        _keep_name,
        re.IGNORECASE,
    ),
    _Pattern(
        ("code=",),  # of a sign-in, or a function's key: as a parameter of an address
        ("code=",),
        rf"(?P<key> (?<= [?&] ) code= ) {_SIGNED}{{16,}}+",
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
        ("bearer", "basic"),  # but not the bearer of bad news, nor basic knowledge
        r"""
        (?P<key> (?: bearer | basic (?= [ \t]++ [A-Za-z0-9+/]{8,400}+ = ) ) [ \t]{1,8} )
        (?= [A-Za-z._~+/=-]{0,60} [0-9] | [A-Za-z._~+/=-]{20} ) [A-Za-z0-9._~+/=-]{8,}+
        """,
        _keep_name,
        re.IGNORECASE,
    ),
    _Pattern(
        (":", "="),
        ("pass", "pwd", "pw", "secret", "credential", "session", "key", "token"),
        # A quoted value ends at its quote, or where the text was cut; any other at a delimiter.
        rf"""
        (?P<key> (?P<name> {_NAME} | token ) [0-9]{{0,3}} {_ASSIGNED} )
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
