"""Read JSON as strictly as the published JSON Schema says, and no stricter.

pydantic's strict mode differs from its own schemas in a few places. ``as_published`` mends what it
takes although the schema forbids it, ``with_integers`` helps with what it refuses although the
schema allows it: 3.0 is an integer, says JSON Schema (2020-12, 4.2.3).
"""

from __future__ import annotations

import decimal
import enum
import re
import uuid
from collections.abc import Callable
from typing import Any, Final

import pydantic
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

__all__ = ["DECIMAL_PATTERN", "as_published", "with_integers"]

#: What a Decimal may look like as text; Python takes underscores, blanks and NaN as well.
DECIMAL_PATTERN: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NO_SCHEMAS: Final = {"cls", "config", "default", "expected", "members", "metadata",
                      "serialization"}  # fmt: skip
_INTEGER_ERRORS: Final = {"int_type", "enum", "literal_error", "is_instance_of"}
_MOST_ERRORS: Final = 10_000  # to list more takes seconds


def as_published(schema: Any) -> Any:
    """Return a core schema of pydantic's that refuses what its JSON Schema forbids.

    ``true`` is no 1 of an enum or a Literal, a UUID has hyphens and no braces, a Decimal is a
    number, an item of a set comes once.
    """
    if isinstance(schema, (list, tuple)):
        return type(schema)(as_published(part) for part in schema)
    if not isinstance(schema, dict):
        return schema
    copy = {key: part if key in _NO_SCHEMAS else as_published(part) for key, part in schema.items()}
    change = _CHANGES.get(copy.get("type", ""))
    if change is None:
        return copy
    name = {"ref": copy.pop("ref")} if "ref" in copy else {}  # the changed schema takes its place
    return {**change(copy), **name}


def with_integers(error: pydantic.ValidationError, value: Any) -> Any:
    """Return the value with integers instead of floats such as 3.0 where ``error`` wants integers.

    With very many errors, everywhere. Returns the same object if there is nothing to change.
    """
    if error.error_count() > _MOST_ERRORS:
        return _all_integers(value)
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        if one["type"] in _INTEGER_ERRORS:
            value = _with_integer(value, one["loc"])
    return value


def _with_integer(value: Any, loc: tuple[int | str, ...]) -> Any:
    """Follow a location through the value, of which it also names branches of unions."""
    if not loc:
        return _as_integer(value)
    step, *rest = loc
    in_dict = isinstance(value, dict) and step in value
    if not in_dict and not (isinstance(value, list) and step in range(len(value))):
        return _with_integer(value, tuple(rest))
    inner = _with_integer(value[step], tuple(rest))
    if inner is value[step]:
        return value
    changed = value.copy()
    changed[step] = inner
    return changed


def _all_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _all_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_all_integers(item) for item in value]
    return _as_integer(value)


def _as_integer(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _choice(schema: dict[str, Any], choices: list[tuple[Any, Any]], known: Any) -> dict[str, Any]:
    """Let a value be one of ``choices`` (JSON value, result) as JSON compares them."""
    if all(isinstance(json, str) for json, _ in choices):
        return schema  # nothing else equals a text
    results = {(isinstance(json, bool), json): result for json, result in reversed(choices)}
    shown = ", ".join(repr(json) for json, _ in choices)

    def choose(value: Any) -> Any:
        try:
            return results[isinstance(value, bool), value]
        except (KeyError, TypeError):  # the second for lists and objects
            raise PydanticKnownError(known, {"expected": shown}) from None

    return {**core_schema.no_info_plain_validator_function(choose)}


def _literal(schema: dict[str, Any]) -> dict[str, Any]:
    expected = schema["expected"]
    choices = [(one.value if isinstance(one, enum.Enum) else one, one) for one in expected]
    return _choice(schema, choices, "literal_error")


def _enum(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("missing") is not None:
        return schema  # the author's _missing_ decides
    return _choice(schema, [(member.value, member) for member in schema["members"]], "enum")


def _before(read: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Let ``read`` make the object that the schema then takes: strictly, a text is none."""

    def change(schema: dict[str, Any]) -> dict[str, Any]:
        inner: Any = schema
        return {**core_schema.no_info_before_validator_function(read, inner)}

    return change


def _read_uuid(value: Any) -> uuid.UUID:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise PydanticCustomError("uuid_parsing", "Input should be a UUID with hyphens")
    return uuid.UUID(value)


def _read_decimal(value: Any) -> decimal.Decimal:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        raise PydanticCustomError("decimal_parsing", "Input should be a valid decimal")
    return decimal.Decimal(str(value))


def _set(schema: dict[str, Any]) -> dict[str, Any]:
    kind = frozenset if schema["type"] == "frozenset" else set

    def collect(items: list[Any]) -> Any:
        found = kind(items)
        if len(found) < len(items):
            raise PydanticCustomError("unique_items", "Each item may be there only once")
        return found

    items = {key: part for key, part in schema.items() if key not in ("metadata", "fail_fast")}
    of_list: Any = {**items, "type": "list"}
    return {**core_schema.no_info_after_validator_function(collect, of_list)}


_CHANGES: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "decimal": _before(_read_decimal),
    "enum": _enum,
    "frozenset": _set,
    "literal": _literal,
    "set": _set,
    "uuid": _before(_read_uuid),
}
