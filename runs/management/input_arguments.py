"""From ``--input key=value`` and ``--input-json`` to an agent's input.

A shell knows only text; the agent's schema says what each text stands for. This module decides
whether the arguments can be read, the agent whether the input fits.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["Problems", "read_input", "read_json_input"]

Problems = dict[str, list[str]]  # by path: input.words

PDF_MAGIC = b"%PDF-"
_TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list in JSON",
    "object": "an object in JSON",
}


class _Unreadable(Exception):
    """One value can't be read."""


def read_input(
    arguments: Sequence[str], schema: Mapping[str, Any], *, max_bytes: int
) -> tuple[dict[str, Any], Problems]:
    """Return the input that ``key=value`` arguments stand for, and why some can't be read.

    A parameter that takes text gets the text as it is, any other the JSON that the value is. If it
    takes both, a value that reads as the other thing is it. ``@FILE`` stands for the content of the
    file (``@-``: of standard input), ``@@x`` for the text ``@x``. For a list each argument adds an
    item, or all items of a JSON array.
    """
    given: dict[str, Any] = {}
    problems: Problems = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_pair = bool(key and equals)
        try:
            if not is_pair:
                raise _Unreadable(f"{_shown(argument)} is not of the form key=value.")
            # An unknown parameter is no problem here: the agent refuses it.
            part = schema.get("properties", {}).get(key, {"type": "string"})
            leaves = list(_leaves(part, schema))
            types = {type for type, _ in leaves}
            if "array" in types and types <= {"array", "null"}:
                arrays = [items for type, items in leaves if type == "array"]
                item_types = {type for items in arrays for type, _ in _leaves(items, schema)}
                items = _values(value, item_types, max_bytes, of_list=True)
                given.setdefault(key, []).extend(items)
            elif key in given:
                raise _Unreadable("It was given twice, and it takes one value.")
            else:
                [given[key]] = _values(value, types, max_bytes)
        except _Unreadable as problem:
            problems.setdefault(f"input.{key}" if is_pair else "input", []).append(str(problem))
    return given, problems


def read_json_input(argument: str, *, max_bytes: int) -> tuple[Any, Problems]:
    """Return the JSON that ``--input-json`` stands for, and why it can't be read.

    It is JSON, ``@FILE``, or ``-`` for standard input.
    """
    try:
        if argument == "-":
            argument = "@-"
        text = _text(_content(argument[1:], max_bytes)) if argument[:1] == "@" else argument
        return _json(text), {}
    except _Unreadable as problem:
        return None, {"input": [str(problem)]}
    except ValueError as error:
        return None, {"input": [f"It is not JSON: {error}."]}


def _leaves(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the JSON types that a part of a schema takes, each with the schema of its items."""
    match part:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            yield from _leaves(schema.get("$defs", {}).get(name, {}), schema)
        case {"anyOf": parts} | {"oneOf": parts} | {"allOf": parts}:
            for one in parts:
                yield from _leaves(one, schema)
        case {"type": str(name)}:
            yield name, part.get("items", {})
        case {"enum": values}:
            yield from ((_TYPES[type(value)], {}) for value in values)
        case {"const": value}:
            yield _TYPES[type(value)], {}
        case _:
            yield from ((name, {}) for name in _TYPES.values())


def _values(value: str, types: set[str], max_bytes: int, *, of_list: bool = False) -> list[Any]:
    """Return the one value that an argument stands for, or all that it adds to a list."""
    text = value.removeprefix("@") if value.startswith("@@") else value
    if value.startswith("@") and not value.startswith("@@"):
        content = _content(value[1:], max_bytes)
        if "string" in types and content.startswith(PDF_MAGIC):
            return [f"data:application/pdf;base64,{base64.b64encode(content).decode('ascii')}"]
        text = _text(content)
        if "string" in types:
            return [text]
    if of_list:
        with suppress(ValueError):
            whole = _json(text)
            if isinstance(whole, list):
                return whole
    return [_typed(text, types)]


def _typed(text: str, types: set[str]) -> Any:
    if types == {"string"}:
        return text
    try:
        value = _json(text)
    except ValueError:
        if "string" in types:
            return text
        expected = " or ".join(name for type, name in _NAMES.items() if type in types) or "JSON"
        raise _Unreadable(f"{_shown(text)} is not {expected}.") from None
    kind = _TYPES[type(value)]
    fits = kind in types or (kind == "integer" and "number" in types)
    # A value of a wrong type stays as it is: the agent's schema has the best words for it.
    return value if fits or "string" not in types else text


def _json(text: str) -> Any:
    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _content(name: str, max_bytes: int) -> bytes:
    """Read a file, or standard input."""
    if not name:
        raise _Unreadable("After @ comes the name of a file. A text that begins with @ needs @@.")
    try:
        with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise _Unreadable(f"The file {name} can't be read: {error.strerror or error}.") from None
    except ValueError:  # a NUL in the name
        raise _Unreadable(f"{_shown(name)} can't be the name of a file.") from None
    if len(content) > max_bytes:
        limit = f"{max_bytes:,} bytes, which is the limit of an input"
        raise _Unreadable(f"{name} has more than {limit}.")
    return content


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = "a PDF, and no text" if content.startswith(PDF_MAGIC) else "no text in UTF-8"
        byte = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise _Unreadable(f"The file is {what} ({byte}).") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
