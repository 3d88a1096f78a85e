"""The text of a web page, without its markup.

Parsers take time that grows with the square of the length of malformed markup: 38 s in
``html.parser`` for 80 kB of ``"<a "``, over 3 minutes in selectolax for 1 MB of ``"<div>"``. This
scanner only looks ahead, so its time grows with the length.
"""

from __future__ import annotations

import contextlib
import html
import re

__all__ = ["html_to_text"]

_TAG = re.compile(r"<(?:(/?[a-zA-Z][a-zA-Z0-9:-]{0,40})|[!?/])")
_PARAGRAPH = re.compile(
    "address|article|aside|blockquote|body|caption|d[dlt]|div|fig(caption|ure)|footer|form|h[1-6]"
    "|header|hr|main|nav|ol|p|pre|section|table|title|ul"
)
_LINE = frozenset({"br", "li", "option", "tr"})
_CELL = frozenset({"td", "th"})
_HIDDEN = {
    name: re.compile(rf"</{name}\b", re.IGNORECASE)
    for name in ("iframe", "script", "style", "svg", "template")
}


def html_to_text(markup: str) -> str:
    """Return the text that a reader would see, with a blank line between paragraphs."""
    pieces: list[str] = []
    at = 0
    while (tag := _TAG.search(markup, at)) is not None:
        pieces.append(_visible(markup[at : tag.start()]))
        name = (tag[1] or "").lower()
        pieces.append(_gap(name.removeprefix("/")))
        at = _end_of_tag(markup, tag.start(), name)
    pieces.append(_visible(markup[at:]))
    return _tidy("".join(pieces))


def _end_of_tag(markup: str, start: int, name: str) -> int:
    """Return where the text continues after the tag, or the hidden element, at ``start``."""
    if markup.startswith("<!--", start):
        return _after(markup, "-->", start + 4)
    # An attribute with a ">" leaves its rest in the text: rare, and harmless to a reader.
    end = _after(markup, ">", start)
    if name in _HIDDEN:
        closing = _HIDDEN[name].search(markup, end)
        return closing.start() if closing else len(markup)
    return end


def _after(markup: str, what: str, start: int) -> int:
    found = markup.find(what, start)
    return len(markup) if found < 0 else found + len(what)


def _gap(name: str) -> str:
    if _PARAGRAPH.fullmatch(name):
        return "\n\n"
    if name in _LINE:
        return "\n"
    return " " if name in _CELL else ""


def _visible(text: str) -> str:
    with contextlib.suppress(ValueError):  # "&#" and more digits than Python makes an int of
        text = html.unescape(text)
    return text.replace("\n", " ")


def _tidy(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
