"""From ``--input key=value`` and ``--input-json`` to an agent's input.

A shell knows only text; the agent's schema says what each text stands for. Whether the input fits
the agent is not judged here, only whether it can be read.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["UnreadableInput", "read_input", "read_json_input"]

PDF_MAGIC = b"%PDF-"
_JSON_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})


class UnreadableInput(Exception):
    """The arguments can't be read.

    ``fields`` maps a path (``input.words``) to its messages; ``readable`` is the rest of the
    input, None if there is nothing of it.
    """

    def __init__(
        self, fields: Mapping[str, Sequence[str]], readable: dict[str, Any] | None = None
    ) -> None:
        super().__init__("The input can't be read.")
        self.fields = {path: list(messages) for path, messages in fields.items()}
        self.readable = readable


class _Unreadable(Exception):
    """One value can't be read."""


def read_input(
    arguments: Sequence[str], schema: Mapping[str, Any], *, max_bytes: int
) -> dict[str, Any]:
    """Return the input that ``key=value`` arguments stand for.

    A parameter that takes text gets the text as it is, any other the JSON that the value is. Where
    a parameter takes both, a value that reads as the other thing is it. ``@FILE`` stands for what
    is in the file (``@-``: on standard input), ``@@x`` for the text ``@x``. For a list each
    argument adds an item, or all items of a JSON array.

    Raises:
        UnreadableInput: with all that is wrong, not only the first.
    """
    given: dict[str, Any] = {}
    problems: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        path = f"input.{key}" if equals and key else "input"
        try:
            if path == "input":
                _refuse(f"{_shown(argument)} is not of the form key=value.")
            wanted = _Wanted.of(schema, key)
            if wanted.is_list:
                given.setdefault(key, []).extend(_items(value, wanted, max_bytes))
            elif key in given:
                _refuse("It was given twice, and it takes one value.")
            else:
                given[key] = _value(value, wanted.types, max_bytes)
        except _Unreadable as problem:
            problems.setdefault(path, []).append(str(problem))
    if problems:
        raise UnreadableInput(problems, given)
    return given


def read_json_input(argument: str, *, max_bytes: int) -> Any:
    """Return the JSON that ``--input-json`` stands for: itself, ``@FILE``, or ``-`` for stdin.

    Raises:
        UnreadableInput: there is no such file, or it is not JSON.
    """
    try:
        if argument == "-":
            argument = "@-"
        text = _text(_content(argument[1:], max_bytes)) if argument[:1] == "@" else argument
        try:
            return _json(text)
        except ValueError as error:
            _refuse(f"It is not JSON: {error}.")
    except _Unreadable as problem:
        raise UnreadableInput({"input": [str(problem)]}) from None


class _Wanted:
    """The JSON types that a parameter takes; for a list, those of its items."""

    def __init__(self, types: frozenset[str], *, is_list: bool) -> None:
        self.types = types
        self.is_list = is_list

    @classmethod
    def of(cls, schema: Mapping[str, Any], key: str) -> _Wanted:
        properties = schema.get("properties", {})
        if key not in properties:  # refused later, with all else that does not fit
            return cls(frozenset({"string"}), is_list=False)
        branches = list(_branches(properties[key], schema, depth=0))
        types = frozenset().union(*(_types(branch) for branch in branches))
        if "array" not in types or types - {"array", "null"}:
            return cls(types, is_list=False)
        items = frozenset[str]().union(
            *(
                _types(branch)
                for array in branches
                if _types(array) == {"array"}
                for branch in _branches(array.get("items", {}), schema, depth=0)
            )
        )
        return cls(items, is_list=True)


def _branches(part: Any, schema: Mapping[str, Any], depth: int) -> list[Mapping[str, Any]]:
    """Follow references and unions to the schemas that a value may fit."""
    if not isinstance(part, Mapping) or depth > 20:
        return [{}]
    if isinstance(reference := part.get("$ref"), str):
        name = reference.rpartition("/")[2]
        return _branches(schema.get("$defs", {}).get(name, {}), schema, depth + 1)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in part:
            return [b for one in part[union] for b in _branches(one, schema, depth + 1)]
    return [part]


def _types(branch: Mapping[str, Any]) -> frozenset[str]:
    named = branch.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(named)
    if "const" in branch or "enum" in branch:
        values = [branch["const"]] if "const" in branch else branch["enum"]
        return frozenset(_type_of(value) for value in values)
    return _JSON_TYPES  # Any


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _items(value: str, wanted: _Wanted, max_bytes: int) -> list[Any]:
    """Return what one argument adds to a list."""
    is_file = value.startswith("@") and not value.startswith("@@")
    text_of_file = is_file and "string" in wanted.types
    if not text_of_file:
        text = _text(_content(value[1:], max_bytes)) if is_file else value
        try:
            whole = _json(text)
        except ValueError:
            whole = None
        if isinstance(whole, list):
            return whole
    return [_value(value, wanted.types, max_bytes)]


def _value(value: str, types: frozenset[str], max_bytes: int) -> Any:
    if value.startswith("@@"):
        return _typed(value[1:], types)
    if not value.startswith("@"):
        return _typed(value, types)
    content = _content(value[1:], max_bytes)
    if "string" not in types:
        return _typed(_text(content), types)
    if content.startswith(PDF_MAGIC):
        return f"data:application/pdf;base64,{base64.b64encode(content).decode('ascii')}"
    return _text(content)


def _typed(text: str, types: frozenset[str]) -> Any:
    if types == {"string"}:
        return text
    try:
        value = _json(text)
    except ValueError:
        if "string" in types:
            return text
        _refuse(f"{_shown(text)} is not {_expected(types)}.")
    kind = _type_of(value)
    fits = kind in types or (kind == "integer" and "number" in types)
    # What is of a wrong type goes on as it is: the agent's schema says it best.
    return value if fits or "string" not in types else text


def _json(text: str) -> Any:
    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list in JSON",
    "object": "an object in JSON",
}


def _expected(types: frozenset[str]) -> str:
    return " or ".join(name for type, name in _NAMES.items() if type in types) or "JSON"


def _content(name: str, max_bytes: int) -> bytes:
    """Read a file, or standard input, as far as a run could be given it."""
    if not name:
        _refuse("After @ comes the name of a file; @@ begins a text with @.")
    try:
        if name == "-":
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(max_bytes + 1)
    except OSError as error:
        _refuse(f"The file {name} can't be read: {error.strerror or error}.")
    except ValueError:  # a NUL in the name
        _refuse(f"{_shown(name)} can't be the name of a file.")
    if len(content) > max_bytes:
        _refuse(f"{name} has more than {max_bytes:,} bytes, which is the limit of an input.")
    return content


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = "a PDF, and no text" if content.startswith(PDF_MAGIC) else "no text in UTF-8"
        _refuse(f"The file is {what} (byte {error.start} is 0x{content[error.start]:02x}).")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _refuse(message: str) -> NoReturn:
    raise _Unreadable(message)
