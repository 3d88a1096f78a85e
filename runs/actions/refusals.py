"""Write what the database takes of a run, and name what it refuses.

A run's update has values from outside: what its agent returned, what a model's endpoint reported.
They are checked where they enter. If the database still refuses one (a number beyond its column, a
text that it can't hold, a constraint), the run must not lose its ending by that. So an update is
written whole; if that is refused, it is written *carefully*: each value is tried in a savepoint,
and those that are refused are left out.

The caller holds the lock of the run's row.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agents.trace import Event
from agents.values import jsonable, redaction
from runs import events
from runs.db.alias import atomic, connection
from runs.db.transactions import is_away, refusal_text

__all__ = ["CODE", "Care", "append", "is_refused", "taken"]

#: The code of a run whose result could not be stored. In the data of an event, the names of the
#: values that were left out.
CODE = "not_recorded"
#: Of a value as JSON. PostgreSQL's jsonb ends at 256 MB, and a message to it at 1 GB; beyond that
#: the connection breaks, so that such a value can't be tried.
MOST_BYTES = 200_000_000
_MOST_REASON = 300  # characters


class Care(enum.IntEnum):
    """How an update is written."""

    WHOLE = 0  # as it is
    TRIED = 1  # without the values that are refused when they are tried
    BARE = 2  # without all values from outside: trying one has broken the connection


def taken(
    fields: Mapping[str, Any],
    needed: Mapping[str, Any],
    write: Callable[[dict[str, Any]], object],
    care: Care,
    *,
    may_be_cleaned: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what the database takes of ``fields``, and the reasons for the others by name.

    Args:
        needed: is written in any case: values of our own.
        write: writes fields; it is called in savepoints that are rolled back.
        may_be_cleaned: values that are written as ``jsonable.clean`` makes them, if only these are
            taken. The name is among the refused ones all the same.
    """
    everything = {**needed, **fields}
    if not any(map(_is_too_large, fields.values())) and not is_refused(write, everything, care):
        return everything, {}
    kept = dict(needed)
    refused: dict[str, str] = {}
    for name, value in fields.items():
        why = _refusal(write, {**kept, name: value}, value, care)
        if why is None:
            kept[name] = value
            continue
        refused[name] = why
        if name in may_be_cleaned and care is Care.TRIED:
            cleaned = jsonable.clean(value)
            if _refusal(write, {**kept, name: cleaned}) is None:
                kept[name] = cleaned
    return kept, refused


def is_refused(
    write: Callable[[dict[str, Any]], object], fields: dict[str, Any], care: Care
) -> bool:
    """Tell whether the database refuses to write these fields together."""
    return care is Care.BARE or _refusal(write, fields) is not None


def append(log: Sequence[Event], care: Care) -> list[Event]:
    """Insert events, each with the data that the database takes; return them as inserted.

    An event keeps its number; ``not_recorded`` in its data names what was left out.
    """
    if care is Care.TRIED and not any(_is_too_large(event.data) for event in log):
        try:
            with atomic():
                events.append(log)
            return list(log)
        except Exception as error:
            if is_away(error):
                raise
    if len(log) > 1:
        half = len(log) // 2
        return append(log[:half], care) + append(log[half:], care)
    return [_insert_without_refused(event, care) for event in log]


def _insert_without_refused(event: Event, care: Care) -> Event:
    if event.type == "agent_end":
        care = Care.TRIED  # its data are our own, or were taken as the record's

    def write(data: dict[str, Any]) -> None:
        events.append([replace(event, data=data)])

    kept, refused = taken(event.data, {}, write, care)
    written = replace(event, data=kept | ({CODE: sorted(refused)} if refused else {}))
    try:
        with atomic():
            events.append([written])
    except Exception as error:
        if is_away(error):
            raise
        written = replace(event, data={CODE: True})  # a name of a key was refused, too
        events.append([written])
    return written


class _Undo(Exception):
    """Rolls back a savepoint whose statements were taken."""


def _refusal(
    write: Callable[[dict[str, Any]], object],
    fields: dict[str, Any],
    value: object = None,
    care: Care = Care.TRIED,
) -> str | None:
    """Return why the database refuses ``fields``; None if it takes them. Writes nothing."""
    if care is Care.BARE:
        return "not tried"
    if _is_too_large(value):
        return "too large"
    try:
        with atomic():
            write(fields)
            if connection.vendor == "postgresql":
                connection.check_constraints()  # the deferred ones, which else refuse the commit
            raise _Undo
    except _Undo:
        return None
    except Exception as error:  # of any kind: a driver has many for a value that it can't send
        if is_away(error):
            raise
        return jsonable.clean_text(redaction.redact(refusal_text(error)), _MOST_REASON)


def _is_too_large(value: object) -> bool:
    if not isinstance(value, (str, list, dict)):
        return False
    try:
        return len(json.dumps(value)) > MOST_BYTES
    except Exception:  # of any kind: the trial says what is wrong
        return False
