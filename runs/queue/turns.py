"""The turn of a queued run: owners come in turn, however many runs each has queued.

Start-time fair queueing (Goyal, Vin and Cheng, 1996). A run gets its ``turn`` when it is queued:
one after the last that its owner has in the queue, and not before the turns that are running now.
The lowest turn goes first. So the thousandth run of one owner has the turn 1,000, and the first run
of another owner, who comes later, has the turn of the next run to start.
"""

from __future__ import annotations

from django.db import connection

from runs.db.statements import Expression
from runs.models import RunRecord

__all__ = ["next_turn"]

# ORDER BY ... LIMIT 1 and no max(): PostgreSQL takes an aggregate over all rows for as cheap while
# its statistics, from when the table was nearly empty, promise a single one.
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
    older one goes first.
    """
    greatest = "MAX" if connection.vendor == "sqlite" else "GREATEST"
    priority = run.priority
    return Expression(_TURN.format(greatest=greatest), (run.owner_id, *[priority] * 3))
