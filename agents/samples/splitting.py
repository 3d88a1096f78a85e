"""Cut a long text into parts that a model can read, where a reader would pause."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["split"]

#: Where a part may end, the best first: after a paragraph, a line, a sentence, a word. Greedy, so
#: each matches up to the *last* such place.
_BORDERS = [
    re.compile(f"(?s:.*)(?:{border})")
    for border in (r"\n\s*\n", r"\n", r"[.!?…][\"'”’»)\]]*\s|[。！？]", r"\s")
]


def split(text: str, limit: int) -> Iterator[str]:
    """Yield ``text`` in parts of at most ``limit`` characters, none of them empty.

    The parts joined are the text. A part ends at the best border in the second half of its room; a
    line without any border is cut at the limit.

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
        match = border.match(text, start, end)
        if match is not None:
            return match.end()
    return end
