"""Make PostgreSQL plan queries of the queue by their index, even when its statistics are old.

They may be from a time when the table was empty, or no run was queued or running. With these,
sorting the whole queue looks as cheap as reading its index, and PostgreSQL sorts 20,000 runs to
claim one.
"""

from __future__ import annotations

from runs.db.alias import connection

__all__ = ["by_key", "plan_by_index"]

# PostgreSQL still uses a disabled plan if it has no other, at a very high estimated cost. That cost
# would trigger the compiler, so jit is off as well.
_BY_INDEX = "SELECT " + ", ".join(
    f"set_config('{name}', 'off', true)"
    for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit")
)


def plan_by_index() -> None:
    """Plan the rest of this transaction by indexes alone; SQLite does so anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_BY_INDEX)


def by_key(condition: str) -> str:
    """Return SQL for ``id = %s AND condition`` that PostgreSQL looks up by the id alone.

    Without CASE it may choose another index. While its statistics have no runs of a worker, it
    reads all runs that the worker ever had, for each row that it writes.
    """
    return f"id = %s AND CASE WHEN {condition} THEN 1 END = 1"
