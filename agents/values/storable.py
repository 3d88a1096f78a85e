"""The JSON values that every database can hold.

Python's JSON is wider than JSON (NaN), and JSON is wider than PostgreSQL's jsonb and text (no NUL,
no lone surrogates). Only this module knows the difference. It does not know objects that are not
JSON yet: ``jsonable`` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final

__all__ = [
    "INTEGERS_END",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "check",
    "child_path",
    "clean_text",
    "find",
    "type_name",
]

MAX_DEPTH: Final = 100
"""How deep lists and objects may be nested."""

MAX_DIGITS: Final = 1000
"""How long an integer may be. Python itself refuses to print more than 4,300 digits."""

INTEGERS_END: Final = 10**MAX_DIGITS
_REPLACEMENT: Final = "\ufffd"
_UNFIT_CHARACTERS: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\0\ud800-\udfff]")
_PLAIN: Final = frozenset({type(None), bool, int, float, str, list, dict})
_CONTAINERS: Final = frozenset({list, dict, tuple, set, frozenset})
_MOST_PROBLEMS: Final = 100
_LONGEST_KEY_IN_PATH: Final = 100
_DEEPEST: Final = 256  # as deep as pydantic goes


def check(value: object, path: str = "input", max_depth: int = MAX_DEPTH) -> dict[str, list[str]]:
    """List what keeps a parsed JSON value from being stored; an empty dict means that nothing does.

    Maps a path (``input``, ``input.words.0``) to its messages: NUL characters and lone surrogates
    (also in keys), numbers that are not finite, integers of more than ``MAX_DIGITS`` digits,
    nesting beyond ``max_depth``, and types that JSON does not have. Tuples count as lists. After
    100 problems it stops, and says so.
    """
    return {} if _is_plain(value, max_depth) else _find_problems(value, path, max_depth)


def _find_problems(value: object, path: str, max_depth: int) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    count = 0
    for parent, key, item, depth in _walk(value, path, max_depth):
        for message in _messages(item, depth, max_depth):
            problems.setdefault(_join(parent, key), []).append(message)
            count += 1
        if count >= _MOST_PROBLEMS:
            problems.setdefault(path, []).append(f"Only the first {count} problems are listed.")
            break
    return problems


def clean_text(text: str, max_length: int | None = None) -> str:
    """Replace NUL and lone surrogates by U+FFFD and cut, visibly, what exceeds ``max_length``.

    The two halves of a surrogate pair, which come together when texts are joined, become the
    character that they stand for.
    """
    plain = str.__str__(text)  # not str(): a subclass may override it
    if max_length is not None and len(plain) > max_length:
        more = len(plain) - max_length
        plain = f"{plain[:max_length]}… [{more:,} more characters]"
    return plain if _is_text((plain,)) else _UNFIT_CHARACTERS.sub(_mended, plain)


def _mended(match: re.Match[str]) -> str:
    unfit = match[0]
    if len(unfit) == 1:
        return _REPLACEMENT
    return unfit.encode("utf-16", "surrogatepass").decode("utf-16")


def child_path(path: str, key: object) -> str:
    """Give the path of an item; a key that is too long or can't be stored is made presentable."""
    if isinstance(key, str):
        return f"{path}.{clean_text(key, _LONGEST_KEY_IN_PATH)}"
    if isinstance(key, int) and -INTEGERS_END < key < INTEGERS_END:
        return f"{path}.{key}"
    return f"{path}.{type_name(key)}"


def find(value: object, path: str, is_wanted: Callable[[Any], bool]) -> tuple[str, Any] | None:
    """Find the first such item in lists, tuples, sets and dicts; return its path and the item."""
    for level in islice(_levels(value), _DEEPEST):
        if any(map(is_wanted, level)):
            break
    else:
        return None
    for parent, key, item, _ in _walk(value, path, _DEEPEST):
        if is_wanted(item):
            return _join(parent, key), item
    return None


def type_name(value: object) -> str:
    """Return the name of a value's class, whatever its metaclass does."""
    # Not type(value).__name__: a metaclass may have made that a property that raises.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def _is_text(strings: Iterable[str]) -> bool:
    joined = "".join(strings)
    if "\0" in joined:
        return False
    if joined.isascii():
        return True
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return True


def _levels(value: object) -> Iterator[list[Any]]:
    """Give the value, then all its items, then all of theirs: whole lists, to be read at C speed.

    A container that stands several times in one level is opened once. So a structure that holds
    itself gives levels without end, but never larger and larger ones.
    """
    level: list[Any] = [value]
    while level:
        yield level
        containers = {id(item): item for item in level if type(item) in _CONTAINERS}.values()
        parts = (item.values() if type(item) is dict else item for item in containers)
        level = list(chain.from_iterable(parts))


def _is_plain(value: object, max_depth: int) -> bool:
    """Say whether ``check`` would find nothing, without keeping paths. False is only a doubt."""
    for depth, level in enumerate(_levels(value)):
        kinds = set(map(type, level))
        if not kinds <= _PLAIN:
            return False
        if str in kinds and not _is_text(item for item in level if type(item) is str):
            return False
        if float in kinds and not all(math.isfinite(x) for x in level if type(x) is float):
            return False
        if int in kinds:
            integers = [item for item in level if type(item) is int]
            if max(integers) >= INTEGERS_END or min(integers) <= -INTEGERS_END:
                return False
        if dict in kinds:
            keys = {key for item in level if type(item) is dict for key in item}
            if not set(map(type, keys)) <= {str} or not _is_text(keys):
                return False
        if depth >= max_depth and (list in kinds or dict in kinds):
            return False
    return True


def _walk(value: Any, path: str, max_depth: int) -> Iterator[tuple[str | None, Any, Any, int]]:
    """Give each item, depth first, without recursion: its parent's path, its key, it, its depth.

    The same container at the same depth is opened once, and none beyond ``max_depth``, so that
    cycles and shared parts have an end.
    """
    opened: set[tuple[int, int]] = set()
    stack: list[tuple[str | None, Iterator[tuple[Any, Any]]]] = [(None, iter([(path, value)]))]
    while stack:
        parent, pairs = stack[-1]
        depth = len(stack) - 1
        for key, item in pairs:
            yield parent, key, item, depth
            kind = type(item)  # not isinstance(): objects may lie about their class, or raise
            if not issubclass(kind, (dict, list, tuple, set, frozenset)):
                continue
            if depth < max_depth and (id(item), depth) not in opened:
                opened.add((id(item), depth))
                parts = iter(dict.items(item)) if issubclass(kind, dict) else enumerate(item)
                stack.append((_join(parent, key), parts))
                break
        else:
            stack.pop()


def _join(parent: str | None, key: Any) -> str:
    return child_path(parent, key) if parent is not None else key


def _messages(item: object, depth: int, max_depth: int) -> Iterator[str]:
    if item is None or isinstance(item, bool):
        return
    if isinstance(item, str):
        yield from _text_messages(item, "text")
    elif isinstance(item, int):
        if not -INTEGERS_END < item < INTEGERS_END:
            yield f"This integer has more than {MAX_DIGITS:,} digits."
    elif isinstance(item, float):
        if not math.isfinite(item):
            yield "NaN and infinite numbers are not allowed."
    elif isinstance(item, (dict, list, tuple)):
        if depth >= max_depth:
            yield f"This is nested more than {max_depth} levels deep."
        if isinstance(item, dict):
            for key in dict.keys(item):
                if isinstance(key, str):
                    yield from _text_messages(key, "key")
                else:
                    yield f"Keys must be text, not {type_name(key)}."
    else:
        yield f"{type_name(item)} is not a JSON value."


def _text_messages(text: str, what: str) -> Iterator[str]:
    if str.__contains__(text, "\0"):
        yield f"This {what} contains a NUL character, which can't be stored."
    elif not _is_text((text,)):
        yield f"This {what} contains half of a surrogate pair, which is not valid Unicode."
