"""What is due, by one statement: a worker looks twice a second, and mostly nothing is.

Each part is a look into a partial index that hardly any run is in.
"""

from __future__ import annotations

from typing import NamedTuple

from runs.db.alias import connection
from runs.db.clock import now_sql

__all__ = ["Due", "look"]


class Due(NamedTuple):
    """For which of these there is something to do now."""

    deadlines: bool  # limit_stops.stop_overdue
    plans: bool  # stopping.escalate_due
    lost_runs: bool  # recovery.recover_runs
    queue: bool  # recovery.end_overdue


_LOOK = """
SELECT
    EXISTS (SELECT 1 FROM runs_runrecord
        WHERE status IN ('queued', 'running') AND deadline_at IS NOT NULL
            AND deadline_at <= {now} AND stop_requested_at IS NULL),
    EXISTS (SELECT 1 FROM runs_runrecord
        WHERE status IN ('queued', 'running') AND stop_abort_at IS NOT NULL
            AND stop_abort_at <= {now} AND stop_mode = 'graceful')
    OR EXISTS (SELECT 1 FROM runs_runrecord
        WHERE status IN ('queued', 'running') AND stop_abandon_at IS NOT NULL
            AND stop_abandon_at <= {now} AND stop_mode IN ('graceful', 'abort')),
    EXISTS (SELECT 1 FROM runs_runrecord
        LEFT JOIN runs_workerrecord ON runs_workerrecord.id = runs_runrecord.worker_id
        WHERE status = 'running'
            AND (runs_workerrecord.id IS NULL OR runs_workerrecord.lost_at IS NOT NULL)),
    EXISTS (SELECT 1 FROM runs_runrecord
        WHERE status = 'queued' AND queue_until IS NOT NULL AND queue_until <= {now})
"""


def look() -> Due:
    now, parameters = now_sql()
    with connection.cursor() as cursor:
        cursor.execute(_LOOK.format(now=now), parameters * 4)
        return Due(*map(bool, cursor.fetchone()))
