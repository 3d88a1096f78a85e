"""The database's clock, which all processes share: the clocks of hosts may be wrong."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from .statements import as_parameter

__all__ = ["database_now", "now_sql"]


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
