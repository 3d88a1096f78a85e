"""Any JSON value in a readable form: a result, a partial one, a field of an input.

``fragments/value.html`` draws it. A value of any size takes a bounded time and a bounded page; the
page says what is left out, and the download has all of it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeGuard

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .markdown import MAX_CHARACTERS, MarkdownText

__all__ = ["Branch", "Shown", "as_text", "show", "show_plainly"]

MAX_RAW = 100_000  # characters
MAX_ROWS = 200
MAX_COLUMNS = 12
MAX_CELL = 500  # characters
MAX_BRANCHES = 1_000
MAX_DEPTH = 20  # of branches; the template calls itself for each
MOST_LINES_UNFOLDED = 40  # longer JSON is drawn as branches that fold

Kind = Literal["prose", "text", "table", "facts", "tree", "json", "plain"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one shape; ``more`` says what is left out."""

    columns: list[str]
    rows: list[list[str]]
    more: str = ""


@dataclass(slots=True)
class Branch:
    """One line of a tree, with the lines below it."""

    name: str
    value: str
    below: list[Branch] = field(default_factory=list)
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """A value, ready for the template.

    ``raw`` is the text itself, or pretty JSON; ``is_cut`` is True if it or the formatted form is
    not all of the value. ``kind`` says which of the other fields is filled.
    """

    kind: Kind
    raw: str
    is_cut: bool = False
    html: SafeString | None = None  # prose
    table: Table | None = None  # table, facts
    tree: list[Branch] = field(default_factory=list)

    @property
    def has_two_forms(self) -> bool:
        """Whether it has a formatted form, too, and not only the raw one."""
        return self.kind in ("prose", "table", "facts", "tree")


def show(value: Any) -> Shown:
    """Choose the most readable form of ``value``."""
    if isinstance(value, str):
        return _show_text(value)
    if isinstance(value, (dict, list)) and value:
        return _show_structure(value)
    return Shown("plain", as_text(value))


def show_plainly(value: Any) -> Shown:
    """Show ``value``; a text is not taken for Markdown."""
    if isinstance(value, str):
        return Shown("text", value[:MAX_RAW], len(value) > MAX_RAW)
    return show(value)


def as_text(value: Any) -> str:
    """Return the whole value as text: a string as it is, any other value as pretty JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _show_text(text: str) -> Shown:
    if not text.strip():
        return show_plainly(text)
    part = text[:MAX_CHARACTERS]
    if len(part) < len(text) and (end := part.rfind("\n\n", MAX_CHARACTERS // 2)) > 0:
        part = part[:end]  # cut between paragraphs if there is a place
    markdown = MarkdownText(part)
    if markdown.has_markup or len(part) == len(text):
        kind: Kind = "prose" if markdown.has_markup else "text"
        is_cut = len(part) < len(text)
        return Shown(kind, text[:MAX_RAW], is_cut, html=markdown.as_html())
    return show_plainly(text)


def _show_structure(value: dict[str, Any] | list[Any]) -> Shown:
    raw, is_cut = _pretty(value)
    if _is_table(value):
        return Shown("table", raw, is_cut, table=_table(value))
    if isinstance(value, dict) and _is_flat(value) and len(value) <= MAX_ROWS:
        rows = [[_cell(name), _cell(item)] for name, item in value.items()]
        return Shown("facts", raw, is_cut, table=Table([], rows))
    if not is_cut and raw.count("\n") < MOST_LINES_UNFOLDED:
        return Shown("json", raw)
    return Shown("tree", raw, is_cut, tree=_tree(value))


def _pretty(value: Any) -> tuple[str, bool]:
    """Return the beginning of a value's pretty JSON, and whether that isn't all of it."""
    pieces: list[str] = []
    length = 0
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_RAW:
            return "".join(pieces)[:MAX_RAW], True
    return "".join(pieces), False


def _is_flat(value: Mapping[str, Any]) -> bool:
    return not any(isinstance(item, (dict, list)) for item in value.values())


def _is_table(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return (
        isinstance(value, list)
        and all(isinstance(row, dict) and row and _is_flat(row) for row in value)
        and len(_columns(value)) <= MAX_COLUMNS
    )


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
        if len(columns) > MAX_COLUMNS:
            break
    return list(columns)


def _table(rows: list[dict[str, Any]]) -> Table:
    names = _columns(rows)
    columns = [_cell(name) for name in names]
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows[:MAX_ROWS]]
    left_out = len(rows) - len(cells)
    more = ngettext("%(count)d more row", "%(count)d more rows", left_out) % {"count": left_out}
    return Table(columns, cells, more if left_out else "")


def _cell(value: Any) -> str:
    text = as_text(value)
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}…"


def _tree(value: dict[str, Any] | list[Any]) -> list[Branch]:
    root = Branch("", "")
    todo: deque[tuple[Branch, Any, int]] = deque([(root, value, 1)])
    left = MAX_BRANCHES
    # Breadth first: of a value that is too large, the deepest levels are left out.
    while todo:
        above, structure, depth = todo.popleft()
        named = structure.items() if isinstance(structure, dict) else enumerate(structure)
        items: list[tuple[Any, Any]] = list(islice(named, left))
        left -= len(items)
        for name, item in items:
            is_folded = isinstance(item, (dict, list)) and item and depth < MAX_DEPTH
            words = _count(item) if is_folded else _cell(json.dumps(item, ensure_ascii=False))
            branch = Branch(_cell(name), words, is_open=depth == 1)
            above.below.append(branch)
            if is_folded:
                todo.append((branch, item, depth + 1))
        if len(items) < len(structure):
            above.below.append(Branch("…", _("%d more") % (len(structure) - len(items))))
    return root.below


def _count(value: dict[str, Any] | list[Any]) -> str:
    count = len(value)
    if isinstance(value, dict):
        return ngettext("%(count)d field", "%(count)d fields", count) % {"count": count}
    return ngettext("%(count)d item", "%(count)d items", count) % {"count": count}
