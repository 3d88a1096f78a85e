"""What a request asks of a model, as far as its event and an estimate need it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

__all__ = ["UNKNOWN", "Asked", "Translate", "as_it_is", "characters_in", "named"]

UNKNOWN: Final = "unknown"  # the model, if the request names none; its reply may

#: Returns a value of an answer (an event's data, or a document) as values of chat completions.
Translate: TypeAlias = Callable[[object], Iterator[object]]

_TEXTS: Final = frozenset(
    (
        *("content", "text", "parts", "input", "output", "arguments", "prompt", "system"),
        *("instructions", "thinking", "functionCall", "functionResponse", "args", "response"),
    )
)
_OBJECTS: Final = ("input", "args", "response")  # of tools: any JSON


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a model.

    Attributes:
        model: its name in the request.
        prompt_characters: to estimate what the endpoint doesn't report.
        translate: None if the answer has numbers only: embeddings.
    """

    model: str
    prompt_characters: int
    translate: Translate | None


def as_it_is(value: object) -> Iterator[object]:
    yield value


def named(body: Mapping[str, Any]) -> str:
    """Return the model that a request's body names."""
    name = body.get("model")
    return name if isinstance(name, str) and name else UNKNOWN


def characters_in(value: object) -> int:
    """Count the characters of a prompt: its texts, and what tools got and gave; no images."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(characters_in, value))
    if not isinstance(value, Mapping):
        return 0
    count = 0
    for name in _TEXTS & value.keys():
        part = value[name]
        is_object = name in _OBJECTS and isinstance(part, Mapping)
        count += len(json.dumps(part, ensure_ascii=False)) if is_object else characters_in(part)
    return count
