"""The database's clock, which all processes share: the clocks of hosts may be wrong."""

from __future__ import annotations

from datetime import datetime

from django.db import connection
from django.utils import timezone

__all__ = ["database_now"]


def database_now() -> datetime:
    """Return the instant by the database's clock; SQLite has the clock of this host."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT CLOCK_TIMESTAMP()")
        now: datetime = cursor.fetchone()[0]
    return now
