"""The encodings of text, by the names that web pages give them.

https://encoding.spec.whatwg.org/#names-and-labels: ``latin-1`` means windows-1252, ``gb2312`` means
gbk. Python's codecs go by other names, and some do harm: ``punycode`` takes minutes for a megabyte,
and ``zip`` unpacks gigabytes.
"""

from __future__ import annotations

import codecs
import functools
import re

import webencodings

__all__ = ["REFUSED_LABELS", "codec_of"]

#: Python's codec, where the one of the same name lacks characters that browsers know.
_CODECS = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "big5": "big5hkscs",
    "iso-2022-jp": "iso2022_jp_2",
}

#: Browsers decode none of these, which can hide markup: ``utf-7``, and what WHATWG replaces.
REFUSED_LABELS = frozenset(
    [
        *("utf-7", "utf7", "unicode-1-1-utf-7", "csunicode11utf7", "x-unicode-2-0-utf-7"),
        *("csiso2022kr", "iso-2022-kr", "iso-2022-cn", "iso-2022-cn-ext", "hz-gb-2312"),
        "replacement",
    ]
)

_UTF_32 = {
    "utf-32": "utf-32",
    "utf32": "utf-32",
    "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be",
}


_LONGEST_LABEL = 40
_CODE_PAGE = re.compile(r"cp\d{3,4}")  # one table each, or a small machine: none does harm


@functools.lru_cache(maxsize=256)  # each response names one, and they are few
def codec_of(label: str) -> str | None:
    """Return the name of Python's codec for a label, None if it is no encoding of text.

    Known are the labels of browsers, Python's other names for these encodings (``latin-1``), code
    pages, and UTF-32, which browsers no longer read.
    """
    label = label.strip("\t\n\f\r \"'").lower()
    if label in _UTF_32:
        return _UTF_32[label]
    if label in REFUSED_LABELS or not label.isascii() or len(label) > _LONGEST_LABEL:
        return None
    return _browsers_codec(label) or _python_codec(label)


def _python_codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    return name if _CODE_PAGE.fullmatch(name) else _browsers_codec(name)


def _browsers_codec(label: str) -> str | None:
    encoding = webencodings.lookup(label)
    if encoding is None or encoding.name == "x-user-defined":
        return None
    return _CODECS.get(encoding.name) or str(encoding.codec_info.name)
