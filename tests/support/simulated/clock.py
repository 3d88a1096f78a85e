"""The time of a simulated world, and the clocks of its hosts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from django.db.models import DateTimeField, Value
from django.utils import timezone

from agents import cancellation, trace
from agents.guard import guard, in_flight
from runs import events, transitions
from runs.actions import (
    leases,
    limit_stops,
    limits,
    recovery,
    starting,
    stop_rows,
    stopping,
)
from runs.db import transactions, writability
from runs.db.statements import as_parameter
from runs.models import RunRecord, WorkerRecord
from runs.queue import due
from runs.quotas import ledger, queued
from runs.worker import heartbeat, reaper, recorder, started_runs

__all__ = ["CLOCK", "Clock", "Host"]

TICK = timedelta(microseconds=1)


class Clock:
    """Advances when the test says so, and by a microsecond with each reading.

    It also makes the ids, which contain the time: the same steps make the same world.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again, for another world: the same steps have the same times and ids in each."""
        self.time = datetime(2030, 1, 1, tzinfo=UTC)
        self._ids = 0

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def now(self, tz: object = None) -> datetime:
        """Return the time on the clock of the host that asks."""
        self.time += TICK
        return self.time + Host.here.skew

    def monotonic(self) -> float:
        """Return the seconds that have passed, the same on all hosts."""
        self.time += TICK
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def database_now(self) -> Value:
        self.time += TICK
        return Value(self.time, DateTimeField())

    def true_now(self) -> datetime:
        """Return the time on the database's clock."""
        self.time += TICK
        return self.time

    def make_id(self) -> uuid.UUID:
        """Return an id that sorts after the earlier ones, as a UUIDv7 does."""
        self._ids += 1
        return uuid.UUID(int=(7 << 76) | self._ids)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make the program use this clock."""
        patch.setattr(timezone, "now", self.now)
        patch.setattr(leases, "Now", self.database_now)
        for module in (limit_stops, limits, starting, stop_rows, stopping):
            patch.setattr(module, "database_now", self.true_now)
        for module in (due, limit_stops, stopping):
            patch.setattr(module, "now_sql", lambda: ("%s", [as_parameter(self.true_now())]))
        for module in (limit_stops, limits):
            patch.setattr(module, "monotonic_offset", lambda: 0.0)
        patch.setattr(transitions, "_DEADLINE", _Deadlines(transitions._DEADLINE))
        for module in (
            cancellation,
            guard,
            in_flight,
            heartbeat,
            ledger,
            limit_stops,
            queued,
            reaper,
            recorder,
            recovery,
            started_runs,
            trace,
            transactions,
            writability,
        ):
            patch.setattr(module, "time", self)
        for module in (cancellation, guard, in_flight, trace, events):
            patch.setattr(module, "datetime", _Datetime)
        patch.setattr(starting, "uuid7", self.make_id)
        for model, name, default in (
            (RunRecord, "created_at", self.now),
            (WorkerRecord, "id", self.make_id),
        ):
            patch.setattr(model._meta.get_field(name), "_get_default", default)


CLOCK = Clock()


class _Deadlines(dict[str, str]):
    """The SQL that starts the clock of a deadline, with the simulated time as the database's."""

    def __getitem__(self, vendor: str) -> str:
        now = f"{CLOCK.true_now():%Y-%m-%d %H:%M:%S.%f}"
        sql = super().__getitem__(vendor)
        return sql.replace("CLOCK_TIMESTAMP()", f"TIMESTAMPTZ '{now}+00'").replace(
            "'now'", f"'{now}'"
        )


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return CLOCK.now()


class Host:
    """A machine with its own clock.

    Attributes:
        here: the host on which the current code runs.
        skew: how far its clock is ahead.
    """

    here: ClassVar[Host]

    def __init__(self, name: str, skew_seconds: float = 0.0) -> None:
        self.name = name
        self.skew = timedelta(seconds=skew_seconds)

    @contextmanager
    def current(self) -> Iterator[None]:
        before, Host.here = Host.here, self
        try:
            yield
        finally:
            Host.here = before


Host.here = Host("nowhere")
