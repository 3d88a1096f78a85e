"""The stored log of a run: append in batches, read after a cursor."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from agents.cancellation import StopMode
from agents.trace import Event
from runs.db.statements import insert_rows

from .models import RunEvent, RunRecord

__all__ = ["append", "read", "read_as_json", "recorded_stops", "system_event"]

BATCH_COUNT = 500
_READ_COUNT = 100  # events that are in memory at once as rows

_COLUMNS = ("seq", "ts", "type", "agent", "depth", "source", "data")
_values = attrgetter(*_COLUMNS)


def append(events: Iterable[Event]) -> None:
    """Insert events; the caller has checked the claim and writes ``last_seq`` with it."""
    rows = [(uuid.UUID(event.run), *_values(event)) for event in events]
    insert_rows(RunEvent, ("run", *_COLUMNS), rows)


def system_event(run: RunRecord, seq: int, type: str, data: dict[str, Any]) -> Event:
    """Make an event of a run that the system records, not its agent."""
    return Event(str(run.pk), seq, datetime.now(UTC), type, run.agent, run.depth, "system", data)


def read(run: uuid.UUID, *, after: int = 0, limit: int = BATCH_COUNT) -> list[RunEvent]:
    """Return up to ``limit`` events of ``run`` after ``after``, in order."""
    return list(RunEvent.objects.filter(run=run, seq__gt=after).order_by("seq")[:limit])


def read_as_json(
    run: uuid.UUID, *, after: int = 0, limit: int = BATCH_COUNT, most_characters: int
) -> list[str]:
    """Return up to ``limit`` events of ``run`` after ``after`` as JSON in ASCII, in order.

    Fewer, if they are very large: no more are read once there are ``most_characters``. At least
    one.
    """
    found: list[str] = []
    room = most_characters
    # A few at a time, by their numbers and not by a cursor of PostgreSQL: that asks three times,
    # and is lost where a pooler (PgBouncer) gives each transaction another session.
    while room > 0 and limit > len(found):
        count = min(_READ_COUNT, limit - len(found))
        some = read(run, after=after, limit=count)
        for event in some:
            if room > 0:
                found.append(json.dumps(event.as_dict(), separators=(",", ":")))
                room -= len(found[-1])
        if len(some) < count:
            break
        after = some[-1].seq
    return found


def recorded_stops(runs: Collection[uuid.UUID]) -> dict[uuid.UUID, StopMode]:
    """Return the hardest stop request that each log has; without the logs that have none."""
    found: dict[uuid.UUID, StopMode] = {}
    requests = RunEvent.objects.filter(run__in=runs, type="stop_requested").order_by("seq")
    for run, data in requests.values_list("run_id", "data"):
        found[run] = StopMode(data["mode"])  # each event is harder than the one before
    return found
