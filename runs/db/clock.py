"""The database's clock, which all processes share: the clocks of hosts may be wrong."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from django.utils import timezone

from runs.db.alias import connection

from .statements import as_parameter

__all__ = ["database_now", "monotonic_offset", "now_sql"]

PROMPT_SECONDS = 0.05  # an answer of the database that took longer says less about its clock
MOST_TRIES = 5


def database_now() -> datetime:
    """Return the instant by the database's clock; SQLite has the clock of this host."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT CLOCK_TIMESTAMP()")
        now: datetime = cursor.fetchone()[0]
    return now


def now_sql() -> tuple[str, list[Any]]:
    """Return the same instant as SQL with its parameters."""
    if connection.vendor == "postgresql":
        return "CLOCK_TIMESTAMP()", []
    return "%s", [as_parameter(timezone.now())]


def monotonic_offset() -> float:
    """Return what to add to a POSIX timestamp of the database's clock for ``time.monotonic()``'s.

    An instant that is translated with it never comes too early, and too late by no more than the
    database took to answer. A process that was frozen meanwhile asks again.
    """
    best, offset = float("inf"), 0.0
    for _ in range(MOST_TRIES):
        before = time.monotonic()
        now = database_now().timestamp()
        after = time.monotonic()
        if after - before < best:
            best, offset = after - before, after - now
        if best < PROMPT_SECONDS:
            break
    return offset
