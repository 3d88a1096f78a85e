"""The only place that writes a run's ``status``.

Each write is a conditional UPDATE on the states that the target may be reached from. Of two writers
the second one changes no row: the count of changed rows is its answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from runs.db.alias import connection
from runs.db.query_plans import by_key
from runs.db.statements import as_parameter, columns_of, made_of, update_rows

from .models import RunRecord
from .status import TERMINAL, TRANSITIONS, Status

__all__ = ["Change", "ProgressRow", "apply", "begin", "claim_one", "claim_queued", "note_progress"]

_HELD = by_key("status = 'running' AND worker_id = %s AND attempt = %s")


@dataclass(frozen=True, slots=True)
class Change:
    """A move of one run to another state.

    Attributes:
        held_by: (worker, attempt), the fence: the run must still have this claim. The worker is
            None if its record was deleted. None without a claim: the run is queued.
        fields: are written with the status. Terminal states need ``finished_at``: a constraint of
            the database refuses them without.
    """

    run: uuid.UUID
    to: Status
    held_by: tuple[uuid.UUID | None, int] | None
    fields: dict[str, Any] = field(default_factory=dict)


def apply(changes: Sequence[Change]) -> int:
    """Make changes, in the caller's transaction; return how many runs were changed."""
    count = 0
    for (condition, _), group in groupby(sorted(changes, key=_kind), key=_kind):
        rows = []
        for change in group:
            values = {"status": change.to, **change.fields}
            if change.to in TERMINAL:
                values.setdefault("in_flight", [])
            rows.append((values, _arguments(change)))
        count += update_rows(RunRecord, condition, rows)
    return count


#: A running run, its claim as (worker, attempt), and fields to write.
ProgressRow = tuple[uuid.UUID, tuple[uuid.UUID, int], dict[str, Any]]


def note_progress(rows: Sequence[ProgressRow]) -> int:
    """Write fields of running runs; return the rows changed."""
    alike: dict[tuple[str, ...], list[tuple[dict[str, Any], list[Any]]]] = {}
    for run, by, fields in rows:  # one statement writes the same columns in all its rows
        alike.setdefault(tuple(fields), []).append(
            (fields, [as_parameter(run), as_parameter(by[0]), by[1]])
        )
    return sum(update_rows(RunRecord, _HELD, these) for these in alike.values())


def _kind(change: Change) -> tuple[str, tuple[str, ...]]:
    """Return the condition and the columns of the statement that can make this change."""
    sources = ", ".join(f"'{status.value}'" for status in TRANSITIONS[change.to])
    condition = f"status IN ({sources})"
    if change.held_by is not None:
        worker, _ = change.held_by
        condition += " AND worker_id = %s" if worker else " AND worker_id IS NULL"
        condition += " AND attempt = %s"
    return by_key(condition), tuple(change.fields)


def _arguments(change: Change) -> list[Any]:
    arguments: list[Any] = [as_parameter(change.run)]
    if change.held_by is not None:
        worker, attempt = change.held_by
        arguments += [as_parameter(worker), attempt] if worker else [attempt]
    return arguments


# MATERIALIZED: without it PostgreSQL may execute the inner SELECT several times, each time with
# other rows that are not locked, and take more than LIMIT.
# CASE: see by_key.
# CASE of started_at: the claim took its instant before it waited for the database, and a run may
# have been created in between. No run starts before it was created.
_CLAIM = """
WITH next AS MATERIALIZED ({choice})
UPDATE runs_runrecord
SET status = 'running', worker_id = %s, attempt = attempt + 1, is_only_claimed = %s,
    deadline_at = {deadline},
    started_at = CASE WHEN created_at > %s THEN created_at ELSE %s END
WHERE id {among} AND CASE status WHEN 'queued' THEN 1 END = 1 AND EXISTS (
    SELECT 1 FROM runs_workerrecord
    WHERE id = %s AND lost_at IS NULL AND draining_at IS NULL AND {renewed}
)
RETURNING {columns}
"""
# At least half of the lease is left, by the database's clock. A worker renews it after each third,
# so else a renewal is overdue: the worker may be about to lose its runs.
_RENEWED = {
    "postgresql": "heartbeat_at + (lease_until - heartbeat_at) / 2 > CLOCK_TIMESTAMP()",
    "sqlite": "(JULIANDAY(heartbeat_at) + JULIANDAY(lease_until)) / 2 > JULIANDAY('now')",
}


# The first claim starts the clock, by the database's; later attempts have what is left. Until then
# a called run has the deadline of its caller. PostgreSQL's LEAST() leaves out NULL.
_DEADLINE = {
    "postgresql": """CASE WHEN attempt > 0 OR deadline_seconds IS NULL THEN deadline_at
        ELSE LEAST(deadline_at, CLOCK_TIMESTAMP() + MAKE_INTERVAL(secs => deadline_seconds)) END""",
    "sqlite": """CASE WHEN attempt > 0 OR deadline_seconds IS NULL THEN deadline_at
        ELSE MIN(COALESCE(deadline_at, '9999'), STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now',
            PRINTF('%%+.3f seconds', deadline_seconds))) END""",
}


def claim_queued(
    worker: uuid.UUID,
    now: datetime,
    choice: str,
    arguments: Sequence[Any],
    *,
    is_begin: bool = False,
) -> dict[uuid.UUID, RunRecord]:
    """Claim the queued runs of ``choice`` for ``worker``; return each as it is then.

    ``choice`` is a SELECT of ids with its ``arguments``. A worker gets none that drains, was
    declared lost, or should have renewed its lease by now. With ``is_begin`` the runs begin by
    their claim; otherwise by ``begin``.
    """
    at, key = as_parameter(now), as_parameter(worker)
    is_postgres = connection.vendor == "postgresql"
    among = "= ANY(ARRAY(SELECT id FROM next))" if is_postgres else "IN (SELECT id FROM next)"
    with connection.cursor() as cursor:
        sql = _CLAIM.format(
            choice=choice,
            among=among,
            renewed=_RENEWED[connection.vendor],
            deadline=_DEADLINE[connection.vendor],
            columns=columns_of(RunRecord),
        )
        cursor.execute(sql, [*arguments, key, not is_begin, at, at, key])
        return {record.pk: record for record in made_of(RunRecord, cursor.fetchall())}


_WAITS = by_key("status = 'queued' AND (queue_until IS NULL OR queue_until > %s)")
_CLAIM_ONE = """
UPDATE runs_runrecord
SET status = 'running', worker_id = %s, attempt = attempt + 1, holds_slot = FALSE,
    deadline_at = {deadline},
    started_at = CASE WHEN created_at > %s THEN created_at ELSE %s END
WHERE {waits} AND EXISTS (
    SELECT 1 FROM runs_workerrecord WHERE id = %s AND lost_at IS NULL AND {renewed}
)
RETURNING attempt
"""


def claim_one(worker: uuid.UUID, run: uuid.UUID, now: datetime) -> int | None:
    """Claim a queued run for ``worker`` past the queue, without a slot; return its attempt.

    None if the run is not queued any more, its deadline is over, or the worker may not claim. The
    run begins by this: if the worker is lost, so is the caller, and no run is queued without it.
    """
    at, key = as_parameter(now), as_parameter(worker)
    sql = _CLAIM_ONE.format(
        waits=_WAITS,
        renewed=_RENEWED[connection.vendor],
        deadline=_DEADLINE[connection.vendor],
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [key, at, at, as_parameter(run), at, key])
        row = cursor.fetchone()
    return row[0] if row else None


_BEGIN = """
UPDATE runs_runrecord SET is_only_claimed = FALSE
WHERE {held} AND EXISTS (SELECT 1 FROM runs_workerrecord WHERE id = %s AND lost_at IS NULL)
"""


def begin(run: uuid.UUID, worker: uuid.UUID, attempt: int) -> bool:
    """Write that the code of a claimed run is about to be called; False if the claim is lost.

    A recovery locks the row and reads whether the run has begun. So of the two the second one sees
    what the first one wrote.
    """
    key = as_parameter(worker)
    with connection.cursor() as cursor:
        sql = _BEGIN.format(held=_HELD)
        cursor.execute(sql, [as_parameter(run), key, attempt, key])
        return bool(cursor.rowcount)
