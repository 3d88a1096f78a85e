"""How PostgreSQL is to plan what is looked up in the queue, whatever its statistics say.

They may be from when the table was empty, or nothing was queued, or running. Then to sort all
that is queued looks as cheap as to ask the index that has it in order, and 20,000 runs are sorted
to take one.
"""

from __future__ import annotations

from django.db import connection

__all__ = ["by_key", "plan_by_index"]

# What can't be done otherwise is done all the same, but at such a price that it would be compiled
# first: hence jit.
_BY_INDEX = "SELECT " + ", ".join(
    f"set_config('{name}', 'off', true)"
    for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit")
)


def plan_by_index() -> None:
    """Have the rest of this transaction planned by indexes alone; SQLite does so anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_BY_INDEX)


def by_key(condition: str) -> str:
    """Return a condition, in SQL, on the run of a certain id that is served by the id alone.

    Plain, PostgreSQL takes whichever index seems to be smallest: while its statistics know nothing
    of a worker's runs it reads all that the worker has ever had, for each row that it writes.
    """
    return f"id = %s AND CASE WHEN {condition} THEN 1 END = 1"
