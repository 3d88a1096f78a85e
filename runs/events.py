"""The stored log of a run: append in batches, read after a cursor."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from agents.trace import Event
from runs.db.statements import insert_rows

from .models import RunEvent, RunRecord

__all__ = ["append", "has_stop_requested", "read", "system_event"]

BATCH_COUNT = 500

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


def has_stop_requested(run: uuid.UUID) -> bool:
    """Return whether the log has a stop request."""
    return RunEvent.objects.filter(run=run, type="stop_requested").exists()
