"""Template filters that show an agent's description, which is a docstring."""

from __future__ import annotations

import re

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()

_BULLET = re.compile(r"[-*•] +")


@register.filter
def as_paragraphs(docstring: str) -> SafeString:
    """Write its paragraphs, its lists, and text in ``double backticks`` as code.

    The author's line breaks inside a paragraph are ignored.
    """
    parts = re.split(r"\n\s*\n", docstring.strip())
    return format_html_join("\n", "{}", ((_part(part),) for part in parts if part.strip()))


@register.filter
def first_paragraph(docstring: str) -> SafeString:
    """Write its first paragraph, in one line."""
    return _with_code(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0])


def _part(text: str) -> SafeString:
    lines = [line.strip() for line in text.splitlines()]
    if not _BULLET.match(lines[0]):
        return format_html("<p>{}</p>", _with_code(text))
    items: list[str] = []
    for line in lines:
        if _BULLET.match(line):
            items.append(_BULLET.sub("", line, count=1))
        else:
            items[-1] += f" {line}"
    return format_html("<ul>{}</ul>", format_html_join("", "<li>{}</li>", _each(items)))


def _each(items: list[str]) -> list[tuple[SafeString]]:
    return [(_with_code(item),) for item in items]


def _with_code(text: str) -> SafeString:
    # Every second piece was between backticks.
    pieces = re.split(r"``(.+?)``", " ".join(text.split()))
    return format_html_join(
        "",
        "{}",
        (
            (format_html("<code>{}</code>", piece) if index % 2 else piece,)
            for index, piece in enumerate(pieces)
        ),
    )
