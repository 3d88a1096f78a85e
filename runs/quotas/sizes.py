"""How many bytes a record counts for: its JSON, and a fixed number for its row and indexes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import pydantic_core

from agents.trace import Event

__all__ = ["RUN_BYTES", "json_bytes", "size_of_entry", "size_of_log", "size_of_values"]

RUN_BYTES = 1_024  # the rows of a run and of its input, and the events that close its log
EVENT_BYTES = 150
ENTRY_BYTES = 200


def json_bytes(value: object) -> int:
    """Return how many bytes a value takes as JSON; never raise."""
    # An ending must not fail because its size is unknown.
    with suppress(Exception):
        return len(pydantic_core.to_json(value))
    with suppress(Exception):
        return len(repr(value))
    return 0  # nested too deep: then it can't be stored either


def size_of_values(*values: object) -> int:
    """Return the bytes of those values that are there."""
    return sum(json_bytes(value) for value in values if value is not None)


def size_of_log(events: Iterable[Event]) -> int:
    return sum(EVENT_BYTES + json_bytes(event.data) for event in events)


def size_of_entry(namespace: str, key: str, value: object, metadata: object) -> int:
    names = len(namespace.encode()) + len(key.encode())
    return ENTRY_BYTES + names + json_bytes(value) + (json_bytes(metadata) if metadata else 0)
