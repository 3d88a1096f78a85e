"""Workers, their leases, and what becomes of the runs of a worker that was lost.

A lease is the worker's: one row, renewed by one write. Whoever finds it over sets ``lost_at`` by a
conditional UPDATE (one winner); from then on the worker claims and renews nothing, and its runs are
ended or handed back, each fenced by its attempt.

Leases are written and compared by the database's clock: those of hosts may be wrong. A worker that
stops its own runs in time (``agents.cancellation.Lease``) measures how long ago it has renewed.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from datetime import timedelta
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from agents.cancellation import CancelToken
from runs import metrics
from runs.delivery import local_runs, notify
from runs.models import RunQuerySet, RunRecord, WorkerRecord
from runs.processes import host_identity, is_gone, process_name, process_started, session_name
from runs.queue import claims
from runs.queue.limits import NO_LIMITS, Limits
from runs.status import Status
from runs.transitions import claim_one

from .finishing import Ended, end_without_worker, note_unheld, with_active_children
from .stopping import stop_children

__all__ = [
    "adopt",
    "claim",
    "forget_workers",
    "free_runs",
    "mark_draining",
    "mark_lost_leases",
    "mark_taking",
    "mark_vanished_neighbours",
    "note_limit",
    "recover_runs",
    "recover_strays",
    "register_worker",
    "renew",
    "retire",
]

logger = logging.getLogger(__name__)

CALLER_LOST = "the worker of its caller went away"
GONE_FOR = timedelta(days=7)  # until then people may look for it in the admin


def register_worker(
    capacity: int,
    lease_seconds: float,
    *,
    limited_by: str = "",
    instead_of: uuid.UUID | None = None,
) -> WorkerRecord:
    """Write a worker for this process; its lease begins now.

    ``limited_by`` says what keeps it from a larger capacity.
    ``instead_of`` is the one that it was before it lost its lease: whoever told that one to take
    no more runs meant the process.
    """
    before = WorkerRecord.objects.filter(pk=instead_of).first() if instead_of else None
    worker = WorkerRecord.objects.create(
        name=process_name(),
        host_identity=host_identity(),
        pid=os.getpid(),
        pid_started=process_started(os.getpid()) or 0,
        capacity=capacity,
        limited_by=limited_by,
        started_at=Now(),
        heartbeat_at=Now(),
        lease_until=Now() + timedelta(seconds=lease_seconds),
        draining_at=before.draining_at if before else None,
    )
    worker.refresh_from_db()
    return worker


def note_limit(worker: uuid.UUID, limited_by: str) -> None:
    """Say what keeps a worker from taking more runs; an empty text for nothing."""
    WorkerRecord.objects.filter(pk=worker).update(limited_by=limited_by)


def renew(worker: uuid.UUID, lease_seconds: float, *, is_draining: bool = False) -> bool:
    """Prolong the lease; False when others have declared the worker lost.

    A process that shuts down says so (``is_draining``) each time: an operator who has not seen it
    may have asked the worker to take runs again.
    """
    fields: dict[str, Any] = {
        "heartbeat_at": Now(),
        "lease_until": Now() + timedelta(seconds=lease_seconds),
    }
    if is_draining:
        fields["draining_at"] = Coalesce("draining_at", Now())
    return bool(WorkerRecord.objects.filter(pk=worker, lost_at=None).update(**fields))


def mark_draining(worker: uuid.UUID) -> bool:
    """Say that the worker takes no more runs; False if that was said before, or it is lost."""
    taking = WorkerRecord.objects.filter(pk=worker, draining_at=None, lost_at=None)
    return bool(taking.update(draining_at=timezone.now()))


def mark_taking(worker: uuid.UUID) -> bool:
    """Take ``mark_draining`` back; False if there is nothing to take back, or the worker is lost.

    It does not call off the drain of a worker that shuts down: that one has ceased to ask.
    """
    draining = WorkerRecord.objects.filter(pk=worker, draining_at__isnull=False, lost_at=None)
    return bool(draining.update(draining_at=None))


def retire(worker: uuid.UUID) -> None:
    """Say that the worker has ended by itself."""
    WorkerRecord.objects.filter(pk=worker, lost_at=None).update(lost_at=timezone.now())


def forget_workers(*, gone_for: timedelta = GONE_FOR, limit: int = 1000) -> int:
    """Remove the records of workers that have long been gone and that no run names; say how many.

    Each start of a process makes one. Those that runs name go when retention has removed the runs.
    """
    named = RunRecord.objects.filter(worker=OuterRef("pk"))
    gone = WorkerRecord.objects.filter(~Exists(named), lost_at__lt=Now() - gone_for)
    ids = list(gone.values_list("pk", flat=True)[:limit])
    # Not by the collector, which would look for their runs once more: nothing names them again.
    return WorkerRecord.objects.filter(pk__in=ids)._raw_delete(DEFAULT_DB_ALIAS)


def claim(worker: uuid.UUID, count: int, limits: Limits = NO_LIMITS) -> list[RunRecord]:
    """Claim up to ``count`` queued runs and register them as active here, as one step.

    The records come with their inputs, in the order of the queue. See ``queue.claim``.

    Raises:
        QueueIsBusy: nothing was claimed; try again in a moment.
    """
    lease = local_runs.lease_of(worker)
    with local_runs.claiming():
        with transaction.atomic():  # a claim whose records can't be read is none
            ids = claims.claim(worker, count, timezone.now(), limits)
            if not ids:
                return []
            records = list(
                RunRecord.objects.select_related("input_record", "stop_requested_by")
                .filter(pk__in=ids)
                .order_by()
            )
            records.sort(key=lambda record: (-record.priority, record.turn, record.created_at))
        for record in records:
            token = CancelToken(lease=lease)
            local_runs.add(local_runs.ActiveRun(record.pk, worker, record.attempt, token))
    notify.publish_changes((record.pk, record.root_id) for record in records)
    for record in records:
        metrics.observe_claim(record.created_at, record.started_at, record.attempt)
    return records


def adopt(
    caller: local_runs.ActiveRun, run: uuid.UUID
) -> tuple[RunRecord, local_runs.ActiveRun] | None:
    """Take a queued run that ``caller`` waits for, past the queue, to be run in its process.

    Returns the record, with its input, and the active entry, whose token is a child of the
    caller's; None if it is not to be had: others have taken it, or it is over.
    """
    with local_runs.claiming():
        with transaction.atomic():
            attempt = claim_one(caller.worker, run, timezone.now())
            if attempt is None:
                return None
            record = RunRecord.objects.select_related("input_record", "stop_requested_by").get(
                pk=run
            )
        entry = local_runs.ActiveRun(run, caller.worker, attempt, token=CancelToken(caller.token))
        local_runs.add(entry)
    metrics.observe_claim(record.created_at, record.started_at, record.attempt)
    notify.publish_changes([(run, record.root_id)])
    return record, entry


def mark_lost_leases(me: uuid.UUID | None = None) -> list[WorkerRecord]:
    """Declare workers lost whose lease is over; return those that this call declared.

    But not ``me``: who can ask can renew, and does when it is time.
    """
    is_over = Q(lease_until__lt=Now())
    workers = WorkerRecord.objects.filter(is_over, ~Q(pk=me), lost_at=None)
    return [worker for worker in workers if _declare_lost(worker, "lease", is_over)]


def mark_vanished_neighbours(me: uuid.UUID | None) -> list[WorkerRecord]:
    """Declare workers lost whose process, on this same host, is gone.

    Only where it can be known for certain: same boot, same process-id namespace, and a process that
    is gone. In doubt the lease decides.
    """
    here = host_identity()
    if not here:
        return []
    neighbours = WorkerRecord.objects.filter(lost_at=None, host_identity=here)
    return [
        worker
        for worker in neighbours
        if worker.pk != me
        and is_gone(worker.pid, worker.pid_started)
        and _declare_lost(worker, "vanished", Q())
    ]


def _declare_lost(worker: WorkerRecord, reason: str, still: Q) -> bool:
    changed = WorkerRecord.objects.filter(still, pk=worker.pk, lost_at=None).update(
        lost_at=timezone.now()
    )
    if changed:
        metrics.WORKERS_REAPED.labels(reason).inc()
        logger.warning("worker %s (%s) was lost", worker.name, worker.pk)
    return bool(changed)


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


def recover_strays(worker: uuid.UUID) -> int:
    """End or hand back runs that this process's ``worker`` holds and does not execute.

    There are none, unless the connection broke after the database had committed a claim or before
    it could commit an ending, or an ending had to wait for children on other workers. Without this
    they would be ``running`` for as long as the worker is.
    """
    held = RunRecord.objects.filter(worker=worker, status=Status.RUNNING).order_by("-depth")
    rows = list(held.values_list("pk", "attempt"))
    with local_runs.claiming():  # else a claim could be committed, and not be here yet
        strays = [
            (id, attempt)
            for id, attempt in rows
            if (entry := local_runs.get(id)) is None
            or (entry.worker, entry.attempt) != (worker, attempt)
        ]
    claims = [(id, Q(worker=worker, attempt=attempt)) for id, attempt in strays]
    return sum(_recover(id, "worker_lost", claim) is not None for id, claim in claims)


def _recover(run: uuid.UUID, code: str, stray: Q) -> Ended | None:
    """End or hand back a run: a stray if a condition says which, else one of a lost worker.

    If something goes on below it, that is asked to stop, and the run is left for later.
    """
    with transaction.atomic():
        record = (
            # Nothing joined: see news. What is locked by others is found the next time: one that
            # froze in a transaction must not keep everybody's heart waiting.
            RunRecord.objects.select_for_update(no_key=True, skip_locked=True)
            .filter(stray, pk=run, status=Status.RUNNING)
            .first()
        )
        if record is None or (not stray and _is_held(record)):
            return None
        ended = None
        if not with_active_children([run]):
            ended = end_without_worker(record, code=code)
        elif record.in_flight:  # no live lease covers it
            note_unheld(record)
    if ended is None:
        stop_children(run, reason=CALLER_LOST)
        return None
    metrics.RUNS_RECOVERED.labels(ended.status).inc()
    logger.warning("run %s lost its worker and is %s now", run, ended.status, extra={"run": run})
    return ended


def _is_held(record: RunRecord) -> bool:
    worker = record.worker_id
    return worker is not None and WorkerRecord.objects.filter(pk=worker, lost_at=None).exists()
