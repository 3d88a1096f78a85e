"""What becomes of runs that no worker will end: those of lost workers, orphaned runs, overdue runs.

The reaper calls these in every process. Each run is locked, compared and ended by one of them, so
any number of processes may do it at once.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q

from runs import metrics
from runs.delivery import local_runs
from runs.models import RunQuerySet, RunRecord, WorkerRecord
from runs.processes import session_name
from runs.status import Status

from .finishing import (
    Ended,
    finish,
    finish_lost,
    finish_queued,
    note_unheld,
    with_active_children,
)
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
    """End or hand back runs whose worker (``worker``, or any) was lost; return how many.

    Children end before their root, so those with children that go on are left for later, and what
    is on other workers is asked to stop. At most ``limit`` are returned, and behind the first one
    no more than there is time for in ``seconds``: call it again until it returns 0. Safe to be
    called by many at once, and again after a crash half-way.
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
    # Those without: others may wait for long, and must not stand before them.
    free = lost.filter(~Exists(children)).order_by("-depth", "created_at")
    count = _recover_all(callers[:limit], code, until)
    while count < limit and not (count and time.monotonic() >= until):
        more = _recover_all(free[: limit - count], code, until)
        if not more:
            break
        count += more  # the next ones are those that called these
    return count


def _recover_all(runs: RunQuerySet, code: str, until: float) -> int:
    count = 0
    for id in list(runs.values_list("pk", flat=True)):
        if count and time.monotonic() >= until:
            break
        count += _recover(id, code, Q()) is not None
    return count


def free_runs(*, stuck_seconds: float = 1.0) -> int:
    """End the database sessions of lost workers that keep others from their runs; return how many.

    A process that freezes in the middle of a transaction keeps its locks for as long as it is
    frozen. To be called after ``recover_runs``: that leaves what is locked, or waits for children.
    A transaction that is younger than ``stuck_seconds`` may just be slow.
    """
    if not connection.features.has_select_for_update_skip_locked:
        return 0  # nobody can be frozen while others go on
    left = RunRecord.objects.filter(status=Status.RUNNING, worker__lost_at__isnull=False)
    if not left.exists():
        return 0
    with transaction.atomic():
        locked = set(left.values_list("pk", flat=True)) - set(
            left.select_for_update(of=("self",), no_key=True, skip_locked=True).values_list(
                "pk", flat=True
            )
        )
    holders = WorkerRecord.objects.filter(runs__in=locked).distinct()
    names = [session_name(worker.name, worker.pid_started) for worker in holders]
    return sum(_end_sessions(name, stuck_seconds) for name in names)


def _end_sessions(name: str, stuck_seconds: float) -> int:
    """End what has been in a transaction for so long. Of a process that is back, only that."""
    with connection.cursor() as cursor:
        cursor.execute(_END_SESSIONS, [name, stuck_seconds])
        count = len(cursor.fetchall())
    if count:
        logger.warning("%d sessions of %s were ended: they held locks", count, name)
    return count


_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
    AND application_name = %s AND pid <> pg_backend_pid()
    AND xact_start < clock_timestamp() - make_interval(secs => %s)
"""


def recover_orphans(worker: uuid.UUID) -> int:
    """End or hand back runs that this process's ``worker`` holds and does not execute.

    There are none, unless the connection broke after the database had committed a claim or before
    it could commit an ending, or an ending had to wait for children on other workers. Without this
    they would be ``running`` for as long as the worker is.
    """
    held = RunRecord.objects.filter(worker=worker, status=Status.RUNNING).order_by("-depth")
    rows = list(held.values_list("pk", "attempt"))
    with local_runs.claiming():  # else a claim could be committed, and not be here yet
        orphans = [
            (id, attempt)
            for id, attempt in rows
            if (entry := local_runs.get(id)) is None
            or (entry.worker, entry.attempt) != (worker, attempt)
        ]
    claims = [(id, Q(worker=worker, attempt=attempt)) for id, attempt in orphans]
    return sum(_recover(id, "worker_lost", claim) is not None for id, claim in claims)


def _recover(run: uuid.UUID, code: str, orphan: Q) -> Ended | None:
    """End or requeue a run: an orphan if a condition says which, else one of a lost worker.

    If it has active children, these are asked to stop, and the run is left for later.
    """
    with transaction.atomic():
        record = (
            # Nothing joined: see progress. What is locked by others is found the next time: one
            # that froze in a transaction must not keep the heart of each worker waiting.
            RunRecord.objects.select_for_update(no_key=True, skip_locked=True)
            .filter(orphan, pk=run, status=Status.RUNNING)
            .first()
        )
        if record is None or (not orphan and _is_held(record)):
            return None
        end = None
        if not with_active_children([run]):
            end = finish_lost(record, code=code)
            finish([end])
        elif record.in_flight:  # no live lease covers it
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

    Many may call it at once: each run is ended by one. A run that a stop has locked is left to it.
    """
    overdue = RunRecord.objects.filter(status=Status.QUEUED, queue_until__lte=now)
    if not overdue.exists():  # on SQLite a transaction that writes makes all others wait
        return 0
    with transaction.atomic():
        locked = overdue.select_for_update(no_key=True, skip_locked=True)
        records = list(locked.order_by("queue_until")[:limit])
        finish([finish_queued(record, _timeout(record)) for record in records])
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
