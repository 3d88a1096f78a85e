"""Workers, their leases, and what becomes of the runs of a worker that was lost.

A lease is the worker's: one row, renewed by one write. Whoever finds it over sets ``lost_at`` by a
conditional UPDATE (one winner); from then on the worker claims and renews nothing, and its runs are
ended or handed back, each fenced by its attempt.

Leases are written and compared by the database's clock: those of hosts may be wrong. A worker that
stops its own runs in time (``agents.cancellation.Lease``) measures how long ago it has renewed.
"""

from __future__ import annotations

import logging
import os
import uuid
from datetime import timedelta
from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from agents.cancellation import CancelToken
from runs import metrics
from runs.delivery import local_runs, notify
from runs.models import RunRecord, WorkerRecord
from runs.processes import host_identity, is_gone, process_name, process_started
from runs.queue import claims
from runs.queue.limits import NO_LIMITS, Limits
from runs.transitions import claim_one

__all__ = [
    "adopt",
    "claim",
    "forget_workers",
    "mark_draining",
    "mark_lost_leases",
    "mark_taking",
    "mark_vanished_workers",
    "note_limit",
    "register_worker",
    "renew",
    "retire",
]

logger = logging.getLogger(__name__)

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


def mark_lost_leases(self_id: uuid.UUID | None = None) -> list[WorkerRecord]:
    """Declare workers lost whose lease is over; return those that this call declared.

    Never ``self_id``: a worker that can run this query can renew its own lease.
    """
    is_over = Q(lease_until__lt=Now())
    workers = WorkerRecord.objects.filter(is_over, ~Q(pk=self_id), lost_at=None)
    return [worker for worker in workers if _declare_lost(worker, "lease", is_over)]


def mark_vanished_workers(self_id: uuid.UUID | None) -> list[WorkerRecord]:
    """Declare workers lost whose process, on this same host, is gone.

    Only where it can be known for certain: same boot, same process-id namespace, and a process that
    is gone. In doubt the lease decides.
    """
    here = host_identity()
    if not here:
        return []
    on_this_host = WorkerRecord.objects.filter(lost_at=None, host_identity=here)
    return [
        worker
        for worker in on_this_host
        if worker.pk != self_id
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
