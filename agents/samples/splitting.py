"""Cut a long text into parts that a model can read, where a reader would pause."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["split"]

#: Where a part may end, the best first. Each match ends where the next part begins.
_BORDERS = (
    re.compile(r"\n\s*\n"),  # a paragraph
    re.compile(r"\n"),  # a line
    re.compile(r"[.!?…][\"'”’»)\]]*\s|[。！？]"),  # a sentence
    re.compile(r"\s"),  # a word
)


def split(text: str, limit: int) -> Iterator[str]:
    """Yield ``text`` in parts of at most ``limit`` characters, none of them empty.

    Nothing is lost or changed: the parts joined are the text. A part ends at the best border in
    the second half of its room; a line without any border is cut where the room ends.

    Raises:
        ValueError: ``limit`` is less than 1.
    """
    if limit < 1:
        raise ValueError(f"a part needs room for at least one character, not {limit}")
    start = 0
    while start < len(text):
        end = start + limit
        if end < len(text):
            end = _last_border(text, start + limit // 2, end)
        yield text[start:end]
        start = end


def _last_border(text: str, start: int, end: int) -> int:
    for border in _BORDERS:
        last = None
        for last in border.finditer(text, start, end):  # noqa: B007 - the last one is wanted
            pass
        if last is not None:
            return last.end()
    return end
