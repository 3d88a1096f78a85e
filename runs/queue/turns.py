"""The turn of a queued run: owners come in turn, however many runs each has queued.

Start-time fair queueing (Goyal, Vin and Cheng, 1996). A run gets its ``turn`` when it is queued:
one after the last run of its owner in the queue, and not before the turns that are running now.
The run with the lowest turn starts first. So the thousandth run of one owner has the turn 1,000,
and the first run of an owner who comes later has the turn of the next run to start.
"""

from __future__ import annotations

from runs.db.alias import connection
from runs.db.statements import Expression
from runs.db.users import key_as_parameter
from runs.models import RunRecord

__all__ = ["next_turn", "read_next_turn"]

# ORDER BY ... LIMIT 1, not max(): while PostgreSQL's statistics are from a nearly empty table, it
# assumes that an aggregate over all rows is as cheap as the index.
_TURN = """1 + {greatest}(
    COALESCE((SELECT turn FROM runs_runrecord
        WHERE status = 'queued' AND owner_id = %s AND priority = %s
        ORDER BY turn DESC LIMIT 1), 0),
    COALESCE((SELECT turn FROM runs_runrecord
        WHERE status = 'queued' AND priority = %s
        ORDER BY turn LIMIT 1) - 1, 0),
    COALESCE((SELECT turn FROM runs_runrecord
        WHERE status = 'running' AND holds_slot AND priority = %s
        ORDER BY turn DESC LIMIT 1) - 1, 0))"""


def next_turn(run: RunRecord) -> Expression:
    """Return the expression that computes the turn of ``run`` while it is inserted.

    Two runs that one owner queues at the same moment may get the same turn. That is harmless: the
    older one starts first.
    """
    greatest = "MAX" if connection.vendor == "sqlite" else "GREATEST"
    owner = key_as_parameter(run.owner_id)
    return Expression(_TURN.format(greatest=greatest), (owner, *[run.priority] * 3))


def read_next_turn(run: RunRecord) -> int:
    """Return the turn that ``run`` would get if it were inserted now."""
    expression = next_turn(run)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {expression.sql}", expression.arguments)
        row: tuple[int] = cursor.fetchone()
    return row[0]
