"""Workers, their leases, and the claims that they make under them.

A lease belongs to a worker: one row, renewed by one write. The process that finds a lease over sets
``lost_at`` by a conditional UPDATE, so one process wins. From then on the worker can neither claim
nor renew, and ``recovery`` ends or requeues its runs, each fenced by its attempt.

The database's clock writes and compares leases: the clocks of hosts may be wrong. To stop its own
runs in time a worker measures how long ago it renewed (``agents.cancellation.Lease``).
"""

from __future__ import annotations

import logging
import os
import uuid
from datetime import timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from agents.cancellation import CancelToken
from runs import transitions
from runs.db.alias import alias, atomic
from runs.db.statements import read_by_key
from runs.delivery import local_runs, notify
from runs.models import RunInput, RunRecord, WorkerRecord
from runs.process import metrics
from runs.process.names import host_identity, is_gone, process_name, process_started
from runs.queue import claims
from runs.queue.limits import NO_LIMITS, Limits
from runs.signals import receivers

from .limits import apply_limits

__all__ = [
    "adopt",
    "begin",
    "claim",
    "forget_workers",
    "mark_draining",
    "mark_lost_leases",
    "mark_taking",
    "mark_vanished_workers",
    "note_capacity",
    "register_worker",
    "renew",
    "retire",
]

logger = logging.getLogger(__name__)

GONE_FOR = timedelta(days=7)  # operators may look for the record in the admin until then


def register_worker(
    capacity: int,
    lease_seconds: float,
    *,
    limited_by: str = "",
    instead_of: uuid.UUID | None = None,
) -> WorkerRecord:
    """Create a worker record for this process; its lease starts now.

    ``limited_by`` says why its capacity is not larger.
    ``instead_of`` is this process's worker that lost its lease. If that one was draining, so is
    the new one: the operator meant the process.
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


def note_capacity(worker: uuid.UUID, capacity: int, limited_by: str) -> None:
    """Write how many runs a worker takes, and why not more; empty if nothing limits it."""
    WorkerRecord.objects.filter(pk=worker).update(capacity=capacity, limited_by=limited_by)


def renew(worker: uuid.UUID, lease_seconds: float, *, is_draining: bool = False) -> bool:
    """Renew the lease; return False if the worker was declared lost.

    A process that shuts down writes ``is_draining`` each time: an operator may have asked the
    worker to take runs again meanwhile.
    """
    fields: dict[str, Any] = {
        "heartbeat_at": Now(),
        "lease_until": Now() + timedelta(seconds=lease_seconds),
    }
    if is_draining:
        fields["draining_at"] = Coalesce("draining_at", Now())
    return bool(WorkerRecord.objects.filter(pk=worker, lost_at=None).update(**fields))


def mark_draining(worker: uuid.UUID) -> bool:
    """Let the worker take no more runs; return False if it is draining or lost already."""
    taking = WorkerRecord.objects.filter(pk=worker, draining_at=None, lost_at=None)
    return bool(taking.update(draining_at=timezone.now()))


def mark_taking(worker: uuid.UUID) -> bool:
    """Undo ``mark_draining``; return False if the worker is not draining, or is lost.

    This does not end the drain of a worker that shuts down: that one claims no more.
    """
    draining = WorkerRecord.objects.filter(pk=worker, draining_at__isnull=False, lost_at=None)
    return bool(draining.update(draining_at=None))


def retire(worker: uuid.UUID) -> None:
    """Write that the worker has ended by itself."""
    WorkerRecord.objects.filter(pk=worker, lost_at=None).update(lost_at=timezone.now())


def forget_workers(*, gone_for: timedelta = GONE_FOR, limit: int = 1000) -> int:
    """Delete records of workers lost for ``gone_for`` that no run names; return how many.

    Each start of a process creates a record. One that runs name stays until retention has removed
    the runs.
    """
    named = RunRecord.objects.filter(worker=OuterRef("pk"))
    gone = WorkerRecord.objects.filter(~Exists(named), lost_at__lt=Now() - gone_for)
    ids = list(gone.values_list("pk", flat=True)[:limit])
    # Not delete(): its collector would query the runs once more, and no run can name these again.
    return WorkerRecord.objects.filter(pk__in=ids)._raw_delete(alias())


def claim(
    worker: uuid.UUID, count: int, limits: Limits = NO_LIMITS, is_begin: bool = False
) -> list[RunRecord]:
    """Claim up to ``count`` queued runs and register them in ``local_runs``, as one step.

    The records come with their inputs, in the order of the queue. See ``queue.claims.claim``.
    ``is_begin``: the code of the runs is called as soon as this returns, without ``begin``.

    Raises:
        QueueIsBusy: no run was claimed; try again in a moment.
    """
    lease = local_runs.lease_of(worker)
    with local_runs.claiming():
        with atomic():  # without its records a claim must not commit
            claimed = claims.claim(worker, count, timezone.now(), limits, is_begin)
            for given in read_by_key(RunInput, "run_id", claimed):
                claimed[given.run_id].input_record = given
        if not claimed:
            return []
        records = sorted(
            claimed.values(), key=lambda run: (-run.priority, run.turn, run.created_at)
        )
        entries = [
            local_runs.ActiveRun(record.pk, worker, record.attempt, CancelToken(lease=lease))
            for record in records
        ]
        apply_limits(zip(entries, records, strict=True))
        for entry in entries:
            local_runs.add(entry)
    notify.publish_changes((record.pk, record.root_id) for record in records)
    receivers.send_started(records)
    for record in records:
        metrics.observe_claim(record.created_at, record.started_at, record.attempt)
    return records


def begin(run: local_runs.ActiveRun) -> bool:
    """Write that a run that is only claimed begins: call it before its code is called.

    Returns False if the claim is lost; the code must not be called then. May be repeated.
    """
    return transitions.begin(run.id, run.worker, run.attempt)


def adopt(
    caller: local_runs.ActiveRun, run: uuid.UUID
) -> tuple[RunRecord, local_runs.ActiveRun] | None:
    """Claim a queued run that ``caller`` waits for, past the queue, to execute it in its process.

    Returns the record, with its input, and the entry of ``local_runs``, whose token is a child of
    the caller's. None if another worker has claimed the run, or it is over.
    """
    with local_runs.claiming():
        with atomic():
            attempt = transitions.claim_one(caller.worker, run, timezone.now())
            if attempt is None:
                return None
            record = RunRecord.objects.select_related("input_record", "stop_requested_by").get(
                pk=run
            )
        token = CancelToken(caller.token)
        entry = local_runs.ActiveRun(run, caller.worker, attempt, token, caller=caller)
        apply_limits([(entry, record)])
        local_runs.add(entry)
    metrics.observe_claim(record.created_at, record.started_at, record.attempt)
    notify.publish_changes([(run, record.root_id)])
    receivers.send_started([record])
    return record, entry


def mark_lost_leases(self_id: uuid.UUID | None = None) -> list[WorkerRecord]:
    """Declare workers lost whose lease is over; return those that this call declared lost.

    Never ``self_id``: a worker that can run this query can renew its own lease.
    """
    is_over = Q(lease_until__lt=Now())
    workers = WorkerRecord.objects.filter(is_over, ~Q(pk=self_id), lost_at=None)
    return [worker for worker in workers if _declare_lost(worker, "lease", is_over)]


def mark_vanished_workers(self_id: uuid.UUID | None) -> list[WorkerRecord]:
    """Declare workers of this host lost whose process is gone.

    Only where that is certain: the same boot, the same process-id namespace, and no such process.
    In doubt the lease decides.
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
