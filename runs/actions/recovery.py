"""End or requeue the runs that no worker ends: those of lost workers, orphaned and overdue ones.

The reaper calls this in every process, at the same time. Each run is locked and compared before it
is ended, so one process ends it.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q

from runs.db.alias import atomic, connection
from runs.db.transactions import is_away
from runs.delivery import local_runs
from runs.models import RunQuerySet, RunRecord, WorkerRecord
from runs.process import metrics
from runs.process.names import session_name
from runs.status import Status

from .finishing import (
    Ended,
    finish,
    finish_lost,
    finish_queued,
    note_unheld,
    with_active_children,
)
from .limit_stops import stop_if_overdue
from .refusals import Care
from .stopping import stop_children

__all__ = ["CALLER_LOST", "end_overdue", "free_runs", "recover_orphans", "recover_runs"]

logger = logging.getLogger(__name__)

CALLER_LOST = "the worker of its caller was lost"


def recover_runs(
    *,
    code: str = "worker_lost",
    worker: uuid.UUID | None = None,
    limit: int = 200,
    seconds: float = math.inf,
) -> int:
    """End or requeue runs whose worker (``worker``, or any) was lost; return how many.

    Children end before their caller. A run with active children is left for later, and its children
    on other workers are asked to stop. This ends at most ``limit`` runs, and after the first one
    stops after ``seconds``: call it again until it returns 0. Many processes may call it at once,
    and again after a crash.
    """
    until = time.monotonic() + seconds
    lost = RunRecord.objects.filter(status=Status.RUNNING)
    if worker is not None:
        lost = lost.filter(worker=worker, worker__lost_at__isnull=False)
    else:
        lost = lost.filter(Q(worker__lost_at__isnull=False) | Q(worker=None))
    children = RunRecord.objects.active().filter(parent=OuterRef("pk"))
    alive = Q(status=Status.QUEUED) | Q(worker__isnull=False, worker__lost_at=None)
    unasked = children.filter(alive, stop_requested_at=None)
    callers = lost.filter(Exists(children)).filter(Exists(unasked) | ~Q(in_flight=[]))
    # Runs without children, in a query of their own: callers that wait must not fill the limit.
    free = lost.filter(~Exists(children)).order_by("-depth", "created_at")
    count = _recover_all(callers[:limit], code, until)
    while count < limit and not (count and time.monotonic() >= until):
        more = _recover_all(free[: limit - count], code, until)
        if not more:
            break
        count += more  # next, the callers of these are free
    return count


def _recover_all(runs: RunQuerySet, code: str, until: float) -> int:
    count = 0
    for id in list(runs.values_list("pk", flat=True)):
        if count and time.monotonic() >= until:
            break
        count += _recover_if_taken(id, code, Q()) is not None
    return count


def _recover_if_taken(run: uuid.UUID, code: str, orphan: Q) -> Ended | None:
    """Recover a run; if the database refuses its ending, write what it takes, or leave the run.

    One run must not keep the others from being recovered, nor a worker from its heartbeat.
    """
    for care in (Care.WHOLE, Care.TRIED):
        try:
            return _recover(run, code, orphan, care)
        except Exception as error:
            if is_away(error):
                raise
            logger.exception("run %s can't be recovered", run, extra={"run": run})
    return None


def free_runs(*, stuck_seconds: float = 1.0) -> int:
    """End the database sessions of lost workers that still lock their runs; return how many.

    A process that freezes in a transaction keeps its locks for as long as it is frozen. Call this
    after ``recover_runs``, which skips locked runs. A transaction that is younger than
    ``stuck_seconds`` may just be slow.
    """
    if not connection.features.has_select_for_update_skip_locked:
        return 0  # SQLite: one writer at a time, and no sessions
    left = RunRecord.objects.filter(status=Status.RUNNING, worker__lost_at__isnull=False)
    if not left.exists():
        return 0
    with atomic():
        locked = set(left.values_list("pk", flat=True)) - set(
            left.select_for_update(of=("self",), no_key=True, skip_locked=True).values_list(
                "pk", flat=True
            )
        )
    holders = WorkerRecord.objects.filter(runs__in=locked).distinct()
    names = [session_name(worker.name, worker.pid_started) for worker in holders]
    return sum(_end_sessions(name, stuck_seconds) for name in names)


def _end_sessions(name: str, stuck_seconds: float) -> int:
    """End the sessions of a process that have been in a transaction for so long, and no others."""
    with connection.cursor() as cursor:
        cursor.execute(_END_SESSIONS, [name, stuck_seconds])
        count = len(cursor.fetchall())
    if count:
        logger.warning("ended %d database sessions of %s: they held locks", count, name)
    return count


_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
    AND application_name = %s AND pid <> pg_backend_pid()
    AND xact_start < clock_timestamp() - make_interval(secs => %s)
"""


def recover_orphans(worker: uuid.UUID) -> int:
    """End or requeue runs that this process's ``worker`` has claimed and does not execute.

    Such a run exists if the connection broke after a claim was committed or before an ending was,
    or if an ending was deferred until children on other workers are over. Without this it would be
    ``running`` until the worker is gone.
    """
    held = RunRecord.objects.filter(worker=worker, status=Status.RUNNING).order_by("-depth")
    rows = list(held.values_list("pk", "attempt"))
    with local_runs.claiming():  # otherwise a claim may be committed and not registered yet
        orphans = [
            (id, attempt)
            for id, attempt in rows
            if (entry := local_runs.get(id)) is None
            or (entry.worker, entry.attempt) != (worker, attempt)
        ]
    claims = [(id, Q(worker=worker, attempt=attempt)) for id, attempt in orphans]
    return sum(_recover_if_taken(id, "worker_lost", claim) is not None for id, claim in claims)


def _recover(run: uuid.UUID, code: str, orphan: Q, care: Care) -> Ended | None:
    """End or requeue a run: an orphaned one that meets ``orphan``, or one of a lost worker.

    If it has active children, this asks them to stop and leaves the run for later.
    """
    with atomic():
        record = (
            # Without joins: see progress. Locked runs are skipped until the next time: a process
            # that froze in a transaction must not block the heartbeat of every worker.
            RunRecord.objects.select_for_update(no_key=True, skip_locked=True)
            .filter(orphan, pk=run, status=Status.RUNNING)
            .first()
        )
        if record is None or (not orphan and _is_held(record)):
            return None
        end = None
        if stop_if_overdue(record):  # no process looked since then
            record.refresh_from_db()
        if not with_active_children([run]):
            [end], _ = finish([finish_lost(record, code=code)], care=care)
        elif record.in_flight:  # its calls ended with the process
            note_unheld(record)
    if end is None:
        stop_children(run, reason=CALLER_LOST)
        return None
    status = end.ended.status
    metrics.RUNS_RECOVERED.labels(status).inc()
    logger.warning("run %s lost its worker and is %s now", run, status, extra={"run": run})
    return end.ended


def _is_held(record: RunRecord) -> bool:
    worker = record.worker_id
    return worker is not None and WorkerRecord.objects.filter(pk=worker, lost_at=None).exists()


def end_overdue(now: datetime, limit: int = 100) -> int:
    """End up to ``limit`` queued runs whose deadline is over, as ``error``; return how many.

    Many processes may call it at once: one of them ends each run. A run that a stop has locked is
    left to the stop.
    """
    overdue = RunRecord.objects.filter(status=Status.QUEUED, queue_until__lte=now)
    if not overdue.exists():  # on SQLite an open transaction makes all writers wait
        return 0
    try:
        return _end_overdue(overdue, limit, Care.WHOLE)
    except Exception as error:
        if is_away(error):
            raise
        logger.exception("overdue runs can't be ended together, trying one by one")
    count = 0
    for id in list(overdue.order_by("queue_until").values_list("pk", flat=True)[:limit]):
        try:
            count += _end_overdue(overdue.filter(pk=id), 1, Care.TRIED)
        except Exception as error:
            if is_away(error):
                raise
            logger.exception("run %s can't be ended", id, extra={"run": id})
    return count


def _end_overdue(overdue: RunQuerySet, limit: int, care: Care) -> int:
    with atomic():
        locked = overdue.select_for_update(no_key=True, skip_locked=True)
        records = list(locked.order_by("queue_until")[:limit])
        finish([finish_queued(record, _timeout(record)) for record in records], care=care)
    return len(records)


def _timeout(record: RunRecord) -> dict[str, Any]:
    assert record.queue_until is not None
    seconds = (record.queue_until - record.created_at).total_seconds()
    message = (
        "It was requeued, and no worker claimed it again in time."
        if record.attempt
        else f"No worker claimed it within {seconds:g} s."
    )
    return {"code": "queue_timeout", "type": "QueueTimeout", "message": message}
