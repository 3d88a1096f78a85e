"""A run's input as the fields of its agent's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agents import registry
from agents.exceptions import AgentNotFound
from agents.values.jsonable import child_path

from .data_urls import DataFile, read_data_url
from .rendering import Shown, show_plainly

__all__ = ["InputField", "input_fields"]

_LONG_CHARACTERS = 600
_LONG_LINES = 8
_MOST_ITEMS = 100


@dataclass(frozen=True, slots=True)
class InputField:
    """One field: a file, a value, or a list of these."""

    label: str
    path: str
    shown: Shown | None = None
    file: DataFile | None = None
    items: list[InputField] = field(default_factory=list)
    more_count: int = 0  # items left out

    @property
    def is_long(self) -> bool:
        if self.shown is None:
            return False
        return len(self.shown.raw) > _LONG_CHARACTERS or self.shown.raw.count("\n") >= _LONG_LINES

    @property
    def beginning(self) -> str:
        """Enough of a long text to recognise it."""
        raw = self.shown.raw if self.shown else ""
        return " ".join(raw[:200].split())[:120]


def input_fields(agent: str, value: Mapping[str, Any]) -> list[InputField]:
    """Return the fields of an input, those of the agent's schema first and in its order."""
    try:
        properties: Mapping[str, Any] = registry.get(agent).input_schema.get("properties", {})
    except AgentNotFound:  # it was removed, its runs were not
        properties = {}
    names = [name for name in properties if name in value]
    names += [name for name in value if name not in properties]
    return [
        _field(_label(name, properties.get(name)), child_path("input", name), value[name])
        for name in names
    ]


def _label(name: str, schema: Any) -> str:
    title = schema.get("title") if isinstance(schema, dict) else None
    return str(title) if title else name.replace("_", " ").strip().capitalize() or name


def _field(label: str, path: str, value: Any) -> InputField:
    if isinstance(value, str) and (file := read_data_url(value)):
        return InputField(label, path, file=file)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        items = [
            _field(f"{label} {index + 1}", child_path(path, index), item)
            for index, item in enumerate(value[:_MOST_ITEMS])
        ]
        return InputField(label, path, items=items, more_count=len(value) - len(items))
    return InputField(label, path, shown=show_plainly(value))
