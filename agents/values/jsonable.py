"""From any Python object to JSON that every database can hold.

``check`` is for input that is JSON already. ``dump`` is for values that an agent hands over: it
refuses those that JSON can't hold. ``clean`` takes anything: for traces, partial results, messages
of exceptions. ``storable`` decides what a database can hold. Nothing here knows agents or runs.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import math
import pathlib
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import pydantic
import pydantic_core

from .redaction import REDACTED, is_secret_key, redact
from .storable import INTEGERS_END, MAX_DEPTH, check, child_path, clean_text, find, type_name

__all__ = [
    "check",
    "child_path",
    "clean",
    "clean_text",
    "dump",
    "error_text",
    "let_signals_pass",
]

_ANYTHING: Final[pydantic.TypeAdapter[Any]] = pydantic.TypeAdapter(Any)


def clean(
    value: object,
    *,
    max_string: int | None = 100_000,
    max_items: int | None = 10_000,
    max_depth: int = MAX_DEPTH,
    max_total: int | None = None,
    redacting: bool = False,
) -> Any:
    """Turn any Python object into a JSON value that every database can hold, and never raise.

    Marks in their place show cuts: ``… [12,345 more characters]``, ``… [3 more items]``,
    ``<cycle>``, ``<nested too deep>``, ``<unprintable Foo>``. NUL and lone surrogates become
    U+FFFD, numbers that are not finite become their names. Fields that a dataclass or a pydantic
    model keeps out of its repr are left out.

    Args:
        max_string: characters of each text; None is no limit.
        max_items: items of the whole value; None is no limit.
        max_total: characters of all texts and keys; with more, each text is cut to 1,000 characters
            and the value to 200 items.
        redacting: take out secrets before cutting: half a secret is not recognised. A text, list or
            object under a key such as ``password``, ``api_key`` or ``cookie`` is replaced whole;
            numbers stay, since ``max_tokens`` and the like are counts.

    Code of the object's own may run (``__repr__``), so call it where that may happen. It swallows
    what that code raises, with one exception: on the main thread a KeyboardInterrupt or a
    SystemExit may come from a signal handler, and passes. A swallowed ``AgentStopped`` is not lost:
    the next guard raises it again.
    """
    try:
        cleaner = _Cleaner(max_string, max_items, max_depth, redacting)
        result = cleaner.clean(value)
        if max_total is not None and cleaner.characters > max_total:
            return _Cleaner(1_000, 200, max_depth).clean(result)
        return result
    except RecursionError:  # called with hardly any stack left
        return "<nested too deep>"


def dump(
    value: object, path: str = "value", adapter: pydantic.TypeAdapter[Any] | None = None
) -> Any:
    """Copy a value that an agent hands over to JSON, or refuse it.

    It takes all that pydantic can serialise: models, dataclasses, dates, sets, ... In texts, NUL
    and lone surrogates become U+FFFD. With ``adapter`` the value is serialised as that type, of
    which it must be. ``path`` names the value in messages.

    Raises:
        ValueError: JSON can't hold it: an unknown type, a number that is not finite, a cycle, too
            deep nesting, an integer of more than ``MAX_DIGITS`` digits, bytes that are no UTF-8.
    """
    adapter = adapter or _ANYTHING
    if (found := find(value, path, _is_iterator)) is not None:
        # pydantic would read it to its end, which it need not have.
        raise ValueError(f"{found[0]}: {type_name(found[1])} is an iterator; make a list of it.")
    try:
        # In JSON mode pydantic writes NaN as null; Python mode keeps it.
        raw = adapter.dump_python(value, by_alias=True, warnings="error")
        result = adapter.dump_python(value, mode="json", by_alias=True, warnings="error")
    except Exception as error:
        raise ValueError(f"{path}: {error_text(error, 1000)}") from error
    if (found := find(raw, path, _is_not_finite)) is not None:
        raise ValueError(f"{found[0]}: NaN and infinite numbers are not allowed.")
    problems = check(result, path)
    if problems:
        result = _with_clean_text(result)
        problems = check(result, path)
    for place, messages in problems.items():
        raise ValueError(f"{place}: {messages[0]}")
    return result


def _is_iterator(item: object) -> bool:
    kind = type(item)
    return kind not in (str, int, float, dict, list) and issubclass(kind, Iterator)


def _is_not_finite(item: Any) -> bool:
    return issubclass(type(item), float) and not math.isfinite(item)


def error_text(exc: BaseException, max_length: int = 10_000) -> str:
    """Give ``str(exc)`` as storable text, also when its ``__str__`` itself fails."""
    try:
        text = str(exc)
    except BaseException as error:
        let_signals_pass(error)
        text = f"<unprintable {type_name(exc)}>"
    return clean_text(text, max_length)


def _with_clean_text(value: Any) -> Any:
    # Recursive: pydantic has refused values that are nested too deep for that.
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_with_clean_text(item) for item in value]
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        for number, (key, item) in enumerate(value.items(), 1):
            name = clean_text(key)  # two keys may become one
            result[name if name not in result else f"{name} (#{number})"] = _with_clean_text(item)
        return result
    return value


def let_signals_pass(error: BaseException) -> None:
    """Raise the error again when it may come from a signal handler, not from the object.

    Signal handlers run on the main thread only.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread and isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error


#: Pydantic gives their usual text.
_SCALARS: Final = (
    datetime.date,  # a datetime is one, too
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
    pathlib.PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
)
_SEQUENCES: Final = (list, tuple, set, frozenset, deque)
_MAX_READ: Final = 1_000_000  # characters of one text that are searched for secrets; then it is cut


class _Cleaner:
    """One call of ``clean``: its limits, and the containers that it is in at the moment."""

    def __init__(
        self,
        max_string: int | None,
        max_items: int | None,
        max_depth: int,
        redacting: bool = False,
    ) -> None:
        self.max_string = max_string
        self.max_depth = max_depth
        self.redacting = redacting
        self.characters = 0  # of all texts and keys so far
        self.items_left = sys.maxsize if max_items is None else max_items
        self.inside: set[int] = set()

    def clean(self, value: object) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        # issubclass(type(...)), not isinstance: that would ask the object for its __class__.
        if issubclass(kind, enum.Enum):
            return self.attempt(lambda enumerated: self.clean(enumerated._value_), value)
        if issubclass(kind, str):
            return self.text(str.__str__(value))
        if issubclass(kind, int):
            return _clean_integer(int.__int__(value))  # type: ignore[arg-type]
        if issubclass(kind, float):
            return _clean_float(float.__float__(value))  # type: ignore[arg-type]
        if id(value) in self.inside:
            return "<cycle>"
        if len(self.inside) >= self.max_depth:
            is_container = issubclass(kind, (*_SEQUENCES, Mapping, pydantic.BaseModel))
            if is_container or dataclasses.is_dataclass(kind):
                return "<nested too deep>"
            return self.printed(value)
        self.inside.add(id(value))
        try:
            return self.attempt(self.clean_object, value)
        finally:
            self.inside.discard(id(value))

    def attempt(self, how: Any, value: object) -> Any:
        try:
            return how(value)
        except BaseException as error:
            let_signals_pass(error)
            if isinstance(error, RecursionError):
                return "<nested too deep>"
            return self.printed(value)

    def clean_object(self, value: Any) -> Any:
        kind = type(value)
        for base in _SEQUENCES:
            if issubclass(kind, base):
                return self.clean_sequence(value, base)
        if issubclass(kind, dict):
            return self.clean_pairs(dict.items(value), dict.__len__(value))
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self.clean_bytes(bytes(value))
        if issubclass(kind, pydantic.RootModel):
            return self.clean(value.root)
        if issubclass(kind, pydantic.BaseModel):
            return self.clean_pairs(*_model_fields(value))
        if dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind) if field.repr]
            return self.clean_pairs(_attributes(value, names), len(names))
        if issubclass(kind, _SCALARS):
            return self.text(pydantic_core.to_jsonable_python(value, fallback=str))
        if issubclass(kind, Mapping):
            return self.clean_pairs(value.items(), len(value))
        return self.printed(value)

    def clean_sequence(self, value: Any, base: Any) -> list[Any]:
        total = base.__len__(value)
        items = list(islice(base.__iter__(value), min(total, self.items_left)))
        if base in (set, frozenset) and set(map(type, items)) in ({str}, {int}):
            items.sort()  # the order of a set is chance, and differs between processes
        result: list[Any] = []
        for item in items:
            if self.items_left <= 0:
                break
            self.items_left -= 1
            result.append(self.clean(item))
        if len(result) < total:
            result.append(f"… [{total - len(result):,} more items]")
        return result

    def clean_pairs(self, pairs: Iterable[tuple[object, object]], total: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        done = 0
        for key, item in list(islice(pairs, min(total, self.items_left))):
            if self.items_left <= 0:
                break
            self.items_left -= 1
            done += 1
            name = self.clean_key(key)
            cleaned = self.clean(item)
            if self.redacting and isinstance(cleaned, (str, list, dict)) and is_secret_key(name):
                cleaned = REDACTED
            result[name if name not in result else f"{name} (#{done})"] = cleaned
        if done < total:
            result["…"] = f"[{total - done:,} more items]"
        return result

    def clean_key(self, key: object) -> str:
        name = self.clean(key)
        if isinstance(name, str):
            return name
        if name is None or isinstance(name, bool):
            return {None: "null", True: "true", False: "false"}[name]
        return self.printed(name)

    def clean_bytes(self, value: bytes) -> str:
        try:
            return self.text(value.decode())
        except UnicodeDecodeError:
            return f"<{len(value):,} bytes>"

    def printed(self, value: object) -> str:
        try:
            text = repr(value)
        except BaseException as error:
            let_signals_pass(error)
            text = f"<unprintable {type_name(value)}>"
        return self.text(text)

    def text(self, text: str) -> str:
        if self.redacting:
            text = redact(clean_text(text, _MAX_READ))
        text = clean_text(text, self.max_string)
        self.characters += len(text)
        return text


def _clean_integer(value: int) -> int | str:
    if -INTEGERS_END < value < INTEGERS_END:
        return value
    return f"<integer of {int(value.bit_length() * math.log10(2)) + 1:,} digits>"


def _clean_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _model_fields(model: pydantic.BaseModel) -> tuple[list[tuple[object, object]], int]:
    """Read a model without its serializers, which may raise, and without what it hides."""
    fields = type(model).model_fields
    shown = [name for name, field in fields.items() if field.repr and not field.exclude]
    pairs = [*_attributes(model, shown), *(model.__pydantic_extra__ or {}).items()]
    return pairs, len(pairs)


def _attributes(value: object, names: list[str]) -> list[tuple[object, object]]:
    pairs: list[tuple[object, object]] = []
    for name in names:
        try:
            pairs.append((name, getattr(value, name)))
        except BaseException as error:
            let_signals_pass(error)
            pairs.append((name, f"<unreadable: {type_name(error)}>"))
    return pairs
