"""The tool calls in a reply, put together from their pieces.

The protocol numbers the calls (``index``), and gives the id and the name of a call with its first
piece. Endpoints leave the number or the id out, number each call 0, or repeat and change what
should come once. So a piece is added to the call that its number or id names, unless that call
can't go on with it: its arguments are complete, say, and the piece has a name.

docs/model-endpoints.md lists the forms that are known.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NotRequired, TypedDict

from agents.values.storable import check, clean_text

from .content import mappings

__all__ = ["ToolCall", "ToolCalls"]


class _FunctionCall(TypedDict):
    """``arguments`` is text, JSON if the model did well."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A tool that the model wants called, as the protocol has it.

    ``extra_content`` is what an endpoint wants back with the call, such as Gemini's signatures.
    """

    id: str
    type: str  # "function"
    function: _FunctionCall
    extra_content: NotRequired[dict[str, Any]]


# Mistral takes ids of this form only, and all others take them, too.
_ID_CHARACTERS: Final = string.ascii_letters + string.digits
_ID_LENGTH: Final = 9

_MARKS: Final = re.compile(r'["\\{}\[\]]')


class ToolCalls:
    """The calls of one reply."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}  # the newest of each
        self._by_id: dict[str, _Call] = {}
        self._last_row: list[_Call] = []  # the calls that the last chunk had pieces of

    def add(self, pieces: object) -> int:
        """Add what a chunk has under ``tool_calls``; return its size, 0 if that is nothing."""
        row: dict[_Call, None] = {}  # in their order
        size = 0
        pieces = [pieces] if isinstance(pieces, Mapping) else pieces  # one call, not in a list
        entries = [_Piece.of(entry) for entry in mappings(pieces)]
        for place, piece in enumerate(entries):
            if piece.is_empty:
                continue
            call = self._call_of(piece, place, len(entries))
            if call is None or _starts_another(call, piece, is_in_row=call in row):
                is_doubtful = call is not None and _may_repeat(call, piece)
                call = _Call(piece.index, is_doubtful=is_doubtful)
                self._calls.append(call)
            call.add(piece)
            if call.index is not None:
                self._by_index[call.index] = call
            if call.id:
                self._by_id[call.id] = call
            row[call] = None
            size += 1 + len(piece.arguments)
        self._last_row = list(row) or self._last_row
        return size

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def characters(self) -> int:
        return sum(len(call.name) + len(call.arguments) for call in self._calls)

    def result(self, *, whole: bool) -> list[ToolCall]:
        """Return the calls; each has an id of its own, which stays the same.

        Args:
            whole: the reply is: so a call without arguments wants none, and has ``{}``.
        """
        ids: set[str] = set()
        calls: list[ToolCall] = []
        for call in self._calls:
            is_nothing = not call.name or call.is_doubtful
            if is_nothing and not call.arguments.strip():
                continue
            call_id = clean_text(call.id)
            if not call_id or call_id in ids:
                call_id = call.made_id = call.made_id or _new_id()
            ids.add(call_id)
            arguments = clean_text(call.arguments)
            if whole and not arguments.strip():
                arguments = "{}"
            function: _FunctionCall = {"name": clean_text(call.name), "arguments": arguments}
            made: ToolCall = {"id": call_id, "type": "function", "function": function}
            if call.extra_content:
                made["extra_content"] = call.extra_content
            calls.append(made)
        return calls

    def _call_of(self, piece: _Piece, place: int, piece_count: int) -> _Call | None:
        """Return the call that the piece names by number or id, or else follows."""
        same = self._by_id.get(piece.id)
        if piece.index is None and same is not None:
            return same
        if piece.index is not None and piece.index in self._by_index:
            is_same = same is not None and same.index == piece.index
            return same if is_same else self._by_index[piece.index]
        if same is not None and not piece.name:
            return same
        if not self._last_row or (piece.index is not None and not piece.is_bare):
            return None
        if piece.is_bare and piece_count == len(self._last_row):
            return self._last_row[place]  # only its place says which call it continues
        return self._last_row[-1]


@dataclass(slots=True)
class _Piece:
    """One piece, read leniently: what is not of the right type counts as missing."""

    index: int | None
    id: str
    name: str
    arguments: str
    extra_content: dict[str, Any]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> _Piece:
        function = entry.get("function")
        function = function if isinstance(function, Mapping) else {}
        extra = entry.get("extra_content")
        return cls(
            _index(entry.get("index")),
            _word(entry.get("id")),
            _word(function.get("name")),
            _arguments(function.get("arguments")),
            dict(extra) if isinstance(extra, Mapping) and not check(extra) else {},
        )

    @property
    def is_empty(self) -> bool:
        return not (self.id or self.name or self.arguments or self.extra_content)

    @property
    def is_bare(self) -> bool:
        """It has arguments alone."""
        return not (self.id or self.name)


@dataclass(eq=False, slots=True)
class _Call:
    """A call so far. A doubtful one is none unless it gets arguments: see ``_may_repeat``."""

    index: int | None
    is_doubtful: bool = False
    id: str = ""
    made_id: str = ""
    name: str = ""
    arguments: str = ""
    extra_content: dict[str, Any] = field(default_factory=dict)
    _json: _JsonEnd = field(default_factory=lambda: _JsonEnd())

    @property
    def is_complete(self) -> bool:
        """Its arguments are a JSON object, from start to end."""
        return self._json.is_reached(self.arguments)

    def add(self, piece: _Piece) -> None:
        self.id = self.id or piece.id
        self.extra_content.update(piece.extra_content)
        if piece.name.startswith(self.name):  # the first time, all of it again, or all so far
            self.name = piece.name
        elif not self.name.endswith(piece.name) or not self.arguments:
            self.name += piece.name
        if not piece.arguments.strip() or not self.is_complete:
            self.arguments += piece.arguments
        elif self.arguments.strip() == "{}":  # it stood for arguments that were still to come
            self.arguments, self._json = piece.arguments, _JsonEnd()
        elif self.arguments != piece.arguments:  # else the whole call came again
            self.arguments += piece.arguments


def _starts_another(call: _Call, piece: _Piece, *, is_in_row: bool) -> bool:
    """Tell whether a piece that names ``call``, or follows it, begins another call."""
    has_same_id = bool(piece.id) and piece.id == call.id
    has_other_id = bool(piece.id and call.id) and not has_same_id
    has_other_name = bool(piece.name) and piece.name != call.name
    if is_in_row and piece.name:  # a chunk has one piece of each call
        return True
    if call.is_complete:
        if has_same_id and not has_other_name:
            is_repeated = piece.arguments.strip() in ("", call.arguments.strip())
            return not is_repeated and call.arguments.strip() != "{}"
        return bool(piece.name) or (has_other_id and bool(piece.arguments.strip()))
    # Names come in pieces, but not after the arguments have begun.
    return has_other_name and (has_other_id or call.is_doubtful or bool(call.arguments))


def _may_repeat(call: _Call, piece: _Piece) -> bool:
    """Tell whether the first piece of another call may be the end of ``call``.

    It has the same name and neither an id of its own nor arguments: some endpoints give the name
    with each piece. Its next piece has arguments, or it was no call.
    """
    return piece.name == call.name and not piece.id and not piece.arguments.strip()


class _JsonEnd:
    """Finds the end of a JSON object or array in a text that grows; reads each character once."""

    def __init__(self) -> None:
        self._read_count = 0
        self._depth = 0
        self._in_string = False
        self._has_begun = False

    def is_reached(self, text: str) -> bool:
        at = self._read_count
        while (mark := _MARKS.search(text, at)) is not None:
            at = mark.end()
            sign = mark[0]
            if sign == "\\" and self._in_string:
                if at == len(text):  # what it escapes is still to come
                    at -= 1
                    break
                at += 1
            elif sign == '"':
                self._in_string = not self._in_string
            elif not self._in_string and sign in "{[":
                self._depth += 1
                self._has_begun = True
            elif not self._in_string and sign in "}]":
                self._depth -= 1
        else:
            at = len(text)
        self._read_count = at
        return self._has_begun and self._depth <= 0


def _new_id() -> str:
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def _index(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 9:
        return int(value)
    return value if type(value) is int else None


def _word(value: object) -> str:
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) else ""


def _arguments(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
