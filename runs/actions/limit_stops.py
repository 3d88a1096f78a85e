"""Stop runs at their limits: the deadline, and the time without a sign of life.

Every process looks twice a second for runs whose deadline is over, by the database's clock, and
asks them to stop (``stop_overdue``). So a deadline holds for queued runs, and while the run's
worker is frozen, blocked or gone. Each worker also looks at its own runs (``look_at_limits``): it
repairs what their tokens know, stops those that show no sign of life, and says when a limit is
near.

The token itself refuses calls after its deadline. A run that such a refusal has ended may be faster
than the look: its worker then writes the request before the ending (``stop_at_deadline``).
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from django.db.models import Q

from agents.cancellation import DEADLINE_REACHED, IDLE
from runs.db.alias import atomic, connection
from runs.db.clock import database_now, monotonic_offset, now_sql
from runs.db.transactions import is_away
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.own_runs import OwnRuns
from runs.models import RunQuerySet, RunRecord
from runs.status import Status

from .stopping import stop_at_limit

__all__ = [
    "MOST_OVERDUE",
    "look_at_limits",
    "stop_at_deadline",
    "stop_if_overdue",
    "stop_overdue",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_OVERDUE = 100  # runs in a transaction: a worker's heart writes them
NEAR = 0.8  # of a deadline: from then on it is near
#: Calls that wait for a sub-agent.
_WAITS = ("agents.call", "agents.wait")

# Its words are those of the partial index, which only runs with a deadline are in.
_OVERDUE = """
SELECT id FROM runs_runrecord
WHERE status IN ('queued', 'running') AND deadline_at IS NOT NULL AND deadline_at <= {now}
    AND stop_requested_at IS NULL
ORDER BY depth, deadline_at LIMIT %s
"""


def stop_overdue(*, limit: int = MOST_OVERDUE) -> int:
    """Ask the active runs whose deadline is over to stop; return how many were asked.

    Every process may call it, at the same time: one of them asks each run. A run that another
    transaction has locked is left for the next call. If the answer is ``limit``, there may be more.
    """
    now, parameters = now_sql()
    with connection.cursor() as cursor:
        cursor.execute(_OVERDUE.format(now=now), [*parameters, limit])
        ids = [id if isinstance(id, uuid.UUID) else uuid.UUID(id) for (id,) in cursor.fetchall()]
    if not ids:  # on SQLite an open transaction makes all writers wait
        return 0
    try:
        return _stop_overdue(ids)
    except Exception as error:  # one run must not keep the others running, nor stop a heart
        if is_away(error):
            raise
        logger.exception("overdue runs can't be stopped together, trying one by one")
    return sum(_logging_failures(id, partial(_stop_overdue, [id])) or 0 for id in ids)


def _stop_overdue(ids: Sequence[uuid.UUID], *, waits: bool = False) -> int:
    with atomic():
        at = database_now()
        overdue = Q(deadline_at__lte=at)
        due = list(_locked(RunRecord.objects.filter(overdue, pk__in=ids), waits=waits))
        # The runs below stop with those above, and say so; also if those above are locked now.
        callers = {record.parent_id for record in due if record.parent_id}
        above = RunRecord.objects.active().filter(overdue, pk__in=callers, stop_requested_at=None)
        with_their_caller = set(above.values_list("pk", flat=True))
        tops = [record for record in due if record.parent_id not in with_their_caller]
        stop_at_limit({run.pk: _wall(run, at) for run in tops}, DEADLINE_REACHED)
    return len(due) if tops else 0


def stop_at_deadline(run: ActiveRun) -> None:
    """Ask a run to stop whose worker has refused a call because of its deadline.

    Does nothing if it was asked before, or is not this worker's any more. A deadline that was moved
    in the last moment counts all the same: the agent's code has been stopped.
    """
    # Its caller first, if that one's deadline is over, too: the run stops with it.
    _stop_overdue(_with_those_above(run.id), waits=True)
    with atomic():
        record = RunRecord.objects.select_for_update(no_key=True).filter(_held(run)).first()
        if record is None or record.stop_requested:
            return
        if not stop_if_overdue(record) and run.token.has_reached_deadline:
            limit = run.limits.deadline_seconds
            stop_at_limit({record.pk: _limit("wall", limit, limit)}, DEADLINE_REACHED)


def stop_if_overdue(record: RunRecord) -> bool:
    """Ask a locked active run to stop if its deadline is over; return whether it was asked.

    In the caller's transaction.
    """
    if record.deadline_at is None or record.stop_requested:
        return False
    at = database_now()
    if record.deadline_at > at:
        return False
    stop_at_limit({record.pk: _wall(record, at)}, DEADLINE_REACHED)
    return True


def look_at_limits(own: OwnRuns) -> float:
    """Compare a worker's runs with their limits, which were just read; stop those that are idle.

    Returns in how many seconds a limit is reached; infinity if that is unknown.
    """
    needs_clock = any(row.deadline_at for _, row in own.noted)
    offset = monotonic_offset() if needs_clock else 0.0
    now = time.monotonic()
    due = [math.inf]
    for run, row in own.noted:
        run.know_limits(row.limits, row.deadline_at, offset)
        is_own = row.deadline_at != row.deadline_above
        due += [*_until_deadline(run, is_own, now), *_until_idle(run, now)]
    return min(due)


def _until_deadline(entry: ActiveRun, is_own: bool, now: float) -> list[float]:
    """Say in a run's log that its deadline is near; return the seconds until more is to do."""
    token, seconds = entry.token, entry.limits.deadline_seconds
    left = token.deadline - now
    if left <= 0 or token.stopped or math.isinf(left):
        return []
    if not is_own or seconds is None or entry.near_deadline == entry.deadline_at:
        return [left]
    until_near = left - (1 - NEAR) * seconds
    if until_near > 0:
        return [until_near]
    if entry.guard is not None:
        entry.near_deadline = entry.deadline_at
        value = round(seconds - left, 3)
        entry.guard.trace.emit(
            "limit_near", {"kind": "wall", "scope": "run", "limit": seconds, "value": value}
        )
    return [left]


def _until_idle(entry: ActiveRun, now: float) -> list[float]:
    """Stop a run that shows no sign of life; return the seconds until it may have to be stopped."""
    limit = entry.limits.idle_seconds
    if limit is None or entry.guard is None or entry.token.stopped:
        return []
    left = limit - (now - entry.guard.trace.alive_at)
    if left <= 0:
        left = limit - _silence(entry)
    if left > 0:
        return [left]
    _logging_failures(entry.id, partial(_stop_idle, entry))
    return []


def _silence(entry: ActiveRun) -> float:
    """Return for how many seconds a run has shown no sign of life.

    While it waits for a sub-agent, that one's signs are its own. A sub-agent in another process is
    taken for alive as long as it is not over: it may have a limit of its own.
    """
    assert entry.guard is not None
    trace = entry.guard.trace
    silence = time.monotonic() - trace.alive_at
    if silence <= 0 or not any(call["tool"] in _WAITS for call in trace.in_flight()):
        return silence
    for child in RunRecord.objects.active().filter(parent=entry.id).values_list("pk", flat=True):
        below = local_runs.get(child)
        silence = min(silence, _silence(below) if below and below.guard else 0.0)
    return silence


def _stop_idle(entry: ActiveRun) -> None:
    with atomic():
        for record in _locked(RunRecord.objects.filter(_held(entry))):
            silence = _silence(entry)  # now that the row is locked: a sign may have come
            limit = record.idle_seconds
            if limit is not None and silence >= limit:
                stop_at_limit({record.pk: _limit("idle", limit, silence)}, IDLE)


def _with_those_above(run: uuid.UUID) -> list[uuid.UUID]:
    found: list[uuid.UUID] = []
    above: uuid.UUID | None = run
    while above is not None:
        found.append(above)
        # None of a record that was deleted, too.
        above = RunRecord.objects.filter(pk=above).values_list("parent", flat=True).first()
    return found


def _logging_failures(run: uuid.UUID, stop: Callable[[], T]) -> T | None:
    try:
        return stop()
    except Exception as error:
        if is_away(error):
            raise
        logger.exception("run %s can't be stopped at its limit", run, extra={"run": run})
        return None


def _held(run: ActiveRun) -> Q:
    return Q(pk=run.id, worker=run.worker, attempt=run.attempt, status=Status.RUNNING)


def _locked(runs: RunQuerySet, *, waits: bool = False) -> RunQuerySet:
    """Lock active runs that were not asked to stop, callers first.

    Without ``waits`` leave those that are locked: a process that froze in a transaction must not
    block the heartbeat of every worker.
    """
    skips = not waits and connection.features.has_select_for_update_skip_locked
    locked = runs.active().select_for_update(no_key=True, skip_locked=skips)
    return locked.filter(stop_requested_at=None).order_by("depth", "pk")


def _wall(record: RunRecord, at: datetime) -> dict[str, Any]:
    """Return the limit that a run has reached ``at`` this instant: its own, or a caller's."""
    assert record.deadline_at is not None
    late = (at - record.deadline_at).total_seconds()
    one, scope = record, "run"
    while (above := one.parent) is not None and above.deadline_at == record.deadline_at:
        one, scope = above, "tree"
    limit = one.deadline_seconds
    return _limit("wall", limit, None if limit is None else limit + late, scope)


def _limit(
    kind: str, limit: float | None, value: float | None, scope: str = "run"
) -> dict[str, Any]:
    value = value if value is None else round(value, 3)
    return {"kind": kind, "scope": scope, "limit": limit, "value": value, "evidence": []}
