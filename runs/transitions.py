"""The only place that writes a run's ``status``.

Each function is one conditional UPDATE on the states that the target may be reached from: whoever
comes second changes nothing and learns it. Zero rows changed is an answer, not an accident.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F, Q

from .models import RunRecord
from .status import TERMINAL, TRANSITIONS, Status

__all__ = ["claim_queued", "transition"]


def transition(
    run: uuid.UUID, to: Status, *, held_by: tuple[uuid.UUID, int] | None = None, **fields: Any
) -> bool:
    """Move one run to ``to`` and write ``fields`` with it; return whether this call did it.

    ``held_by`` (worker, attempt) fences: the claim must still be that one. Terminal states need
    ``finished_at`` among the fields; the database refuses them without.
    """
    condition = Q(pk=run, status__in=TRANSITIONS[to])
    if held_by is not None:
        condition &= Q(worker=held_by[0], attempt=held_by[1])
    if to in TERMINAL:
        fields.setdefault("in_flight", [])
    return bool(RunRecord.objects.filter(condition).update(status=to, **fields))


_CLAIM = """
UPDATE runs_runrecord
SET status = 'running', worker_id = %s, attempt = attempt + 1, started_at = %s
WHERE id IN (
    SELECT id FROM runs_runrecord WHERE status = 'queued'
    ORDER BY created_at LIMIT %s {lock}
) AND status = 'queued' AND EXISTS (
    SELECT 1 FROM runs_workerrecord
    WHERE id = %s AND lost_at IS NULL AND draining_at IS NULL
)
RETURNING id
"""


def claim_queued(worker: uuid.UUID, count: int, now: datetime) -> list[uuid.UUID]:
    """Take up to ``count`` queued runs for ``worker``, oldest first, in one statement.

    Two workers never get the same run, and don't wait for each other on PostgreSQL. A worker that
    is draining or was declared lost gets none.
    """
    lock = "FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
    adapt = RunRecord._meta.pk.get_db_prep_value
    at = RunRecord._meta.get_field("started_at").get_db_prep_value(now, connection)
    key = adapt(worker, connection)
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM.format(lock=lock), [key, at, count, key])
        rows = cursor.fetchall()
    return [row[0] if isinstance(row[0], uuid.UUID) else uuid.UUID(row[0]) for row in rows]
