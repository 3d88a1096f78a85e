"""The Markdown of a model as safe HTML.

Treat the text as hostile. markdown-it escapes the text's own markup, and nh3 lets through a short
list of tags; either alone would do.
"""

from __future__ import annotations

import re
from typing import Any

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

__all__ = ["MAX_CHARACTERS", "MarkdownText"]

#: With the two below, any text costs about a second of work at most.
MAX_CHARACTERS = 40_000

#: The parser looks for the end of each bracket up to the end of the text.
_MAX_BRACKETS = 1_000
#: The parser adds the cells that a row leaves out: 40,000 characters make 65,000 cells.
_MAX_CELLS = 20_000

#: Headings of the page above the text: the run's title and the panel's.
_LEVELS_ABOVE = 2

_TAGS = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "blockquote", "pre", "code", "em", "strong", "s"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a"),
}
_ATTRIBUTES: dict[str, set[str]] = {
    "a": {"href"},
    "ol": {"start"},
    "th": {"align"},
    "td": {"align"},
    "*": set(),  # else nh3 lets a title through on any tag
}
_SCHEMES = {"http", "https", "mailto"}

#: Whole addresses only: a relative one would lead to a page of this site, as the reader.
_ADDRESS = re.compile(r"(https?://|mailto:)\S+", re.IGNORECASE)

_PLAIN = frozenset(
    {"paragraph_open", "paragraph_close", "inline", "text", "text_special", "softbreak"}
)


class MarkdownText:
    """A text that may be Markdown; the caller has cut it to ``MAX_CHARACTERS``."""

    def __init__(self, text: str) -> None:
        self._tokens = (_cautious_parser if _is_laborious(text) else _parser).parse(text)

    @property
    def has_markup(self) -> bool:
        """Whether it has more than paragraphs."""
        return any(
            part.type not in _PLAIN
            for token in self._tokens
            for part in (token, *(token.children or ()))
        )

    def as_html(self) -> SafeString:
        """Return it as harmless HTML.

        Images become links, so that showing a result sends no request to another host.
        """
        for token in self._tokens:
            _fit_into_page(token)
        html = nh3.clean(
            _parser.renderer.render(self._tokens, _parser.options, {}),
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            url_schemes=_SCHEMES,
            link_rel="noopener noreferrer nofollow",
            set_tag_attribute_values={"a": {"target": "_blank"}},
        )
        return mark_safe(html)  # noqa: S308 - nh3 has cleaned it


def _fit_into_page(token: Token) -> None:
    if token.type in ("heading_open", "heading_close"):
        level = len(token.markup) if token.markup.startswith("#") else "=-".index(token.markup) + 1
        token.tag = f"h{min(6, level + _LEVELS_ABOVE)}"
    elif token.type in ("th_open", "td_open"):
        # markdown-it aligns by a style, which the Content-Security-Policy refuses.
        side = str(token.attrs.pop("style", "")).removeprefix("text-align:")
        if side in ("left", "center", "right"):
            token.attrs["align"] = side


class _Renderer(RendererHTML):
    def image(self, tokens: Any, idx: int, options: Any, env: Any) -> str:
        link = Token("link_open", "a", 1, attrs={"href": tokens[idx].attrs.get("src", "")})
        words = Token("text", "", 0, content=tokens[idx].content or "image")
        return self.renderInline([link, words, Token("link_close", "a", -1)], options, env)


def _is_laborious(text: str) -> bool:
    lines = text.split("\n")
    cells = len(lines) * max(line.count("|") for line in lines)
    return cells > _MAX_CELLS or text.count("[") > _MAX_BRACKETS


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark", {"html": False, "breaks": True, "maxNesting": 20}, renderer_cls=_Renderer
    )
    parser.enable(["table", "strikethrough"])
    # Models indent text that is no code, and readers want to see a list of references.
    parser.disable(["code", "reference"])
    # A refused link stays text, as it was written.
    parser.validateLink = lambda url: bool(_ADDRESS.fullmatch(url))  # type: ignore[method-assign]
    return parser


_parser = _make_parser()
_cautious_parser = _make_parser().disable(["table", "link", "image"])
