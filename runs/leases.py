"""Workers, their leases, and what becomes of the runs of a worker that was lost.

A lease is the worker's: one row, renewed by one write. Whoever finds it over sets ``lost_at`` by a
conditional UPDATE (one winner); from then on the worker claims and renews nothing, and its runs are
ended or handed back, each fenced by its attempt.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import uuid
from datetime import datetime, timedelta
from pathlib import Path

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from . import active, live
from .endings import Ended, end_without_worker
from .models import RunRecord, WorkerRecord
from .status import Status
from .transitions import claim_queued

__all__ = [
    "claim",
    "host_identity",
    "mark_draining",
    "mark_lost_leases",
    "mark_taking",
    "mark_vanished_neighbours",
    "recover_runs",
    "recover_strays",
    "register_worker",
    "renew",
    "retire",
]

logger = logging.getLogger(__name__)


def register_worker(capacity: int, lease_seconds: float) -> WorkerRecord:
    """Write a worker for this process; its lease begins now."""
    now = timezone.now()
    return WorkerRecord.objects.create(
        name=f"{socket.gethostname()}:{os.getpid()}",
        host_identity=host_identity(),
        pid=os.getpid(),
        pid_started=_process_started(os.getpid()) or 0,
        capacity=capacity,
        started_at=now,
        heartbeat_at=now,
        lease_until=now + timedelta(seconds=lease_seconds),
    )


def renew(worker: uuid.UUID, lease_seconds: float) -> bool:
    """Prolong the lease; False when others have declared the worker lost."""
    now = timezone.now()
    return bool(
        WorkerRecord.objects.filter(pk=worker, lost_at=None).update(
            heartbeat_at=now, lease_until=now + timedelta(seconds=lease_seconds)
        )
    )


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


def claim(worker: uuid.UUID, count: int) -> list[RunRecord]:
    """Claim up to ``count`` queued runs and register them as active here, as one step.

    The records come with their inputs, the oldest first.
    """
    with active.claiming():
        with transaction.atomic():  # a claim whose records can't be read is none
            ids = claim_queued(worker, count, timezone.now())
            if not ids:
                return []
            records = list(
                RunRecord.objects.select_related("input_record", "stop_requested_by")
                .filter(pk__in=ids)
                .order_by("created_at")
            )
        for record in records:
            active.add(active.ActiveRun(record.pk, worker, record.attempt))
    live.publish_changes((record.pk, record.root_id) for record in records)
    return records


def mark_lost_leases(now: datetime) -> list[WorkerRecord]:
    """Declare workers lost whose lease is over; return those that this call declared."""
    over = WorkerRecord.objects.filter(lost_at=None, lease_until__lt=now)
    return [worker for worker in over if _declare_lost(worker, Q(lease_until__lt=now))]


def mark_vanished_neighbours(me: uuid.UUID) -> list[WorkerRecord]:
    """Declare workers lost whose process, on this same host, is gone.

    Only where it can be known for certain: same boot, same process-id namespace, and no process of
    that id that began when the worker's did. In doubt the lease decides.
    """
    here = host_identity()
    if not here:
        return []
    neighbours = WorkerRecord.objects.filter(lost_at=None, host_identity=here).exclude(pk=me)
    return [
        worker
        for worker in neighbours
        if _process_started(worker.pid) != worker.pid_started and _declare_lost(worker, Q())
    ]


def _declare_lost(worker: WorkerRecord, still: Q) -> bool:
    changed = WorkerRecord.objects.filter(still, pk=worker.pk, lost_at=None).update(
        lost_at=timezone.now()
    )
    if changed:
        logger.warning("worker %s (%s) was lost", worker.name, worker.pk)
    return bool(changed)


def recover_runs(
    *, code: str = "worker_lost", worker: uuid.UUID | None = None, limit: int = 200
) -> int:
    """End or hand back runs whose worker (``worker``, or any) was lost; return how many.

    Called runs come before their callers, so that children end before their root. Safe to be
    called by many at once, and again after a crash half-way.
    """
    lost = RunRecord.objects.filter(status=Status.RUNNING)
    if worker is not None:
        lost = lost.filter(worker=worker, worker__lost_at__isnull=False)
    else:
        lost = lost.filter(Q(worker__lost_at__isnull=False) | Q(worker=None))
    ids = list(lost.order_by("-depth", "created_at").values_list("pk", flat=True)[:limit])
    return sum(_recover(id, code, Q()) is not None for id in ids)


def recover_strays(worker: uuid.UUID) -> int:
    """End or hand back runs that this process's ``worker`` holds and does not execute.

    There are none, unless the connection broke after the database had committed a claim or before
    it could commit an ending. Without this they would be ``running`` for as long as the worker is.
    """
    held = RunRecord.objects.filter(worker=worker, status=Status.RUNNING).order_by("-depth")
    rows = list(held.values_list("pk", "attempt"))
    with active.claiming():  # else a claim could be committed, and not be here yet
        strays = [(id, attempt) for id, attempt in rows if active.get(id) is None]
    claims = [(id, Q(worker=worker, attempt=attempt)) for id, attempt in strays]
    return sum(_recover(id, "worker_lost", claim) is not None for id, claim in claims)


def _recover(run: uuid.UUID, code: str, stray: Q) -> Ended | None:
    """End or hand back a run: a stray if a condition says which, else one of a lost worker."""
    with transaction.atomic():
        record = (
            RunRecord.objects.select_for_update(no_key=True)  # nothing joined: see endings
            .filter(stray, pk=run, status=Status.RUNNING)
            .first()
        )
        if record is None or (not stray and _is_held(record)):
            return None
        return end_without_worker(record, code=code)


def _is_held(record: RunRecord) -> bool:
    worker = record.worker_id
    return worker is not None and WorkerRecord.objects.filter(pk=worker, lost_at=None).exists()


@functools.cache
def host_identity() -> str:
    """Return what tells this host, its boot and its process-id namespace apart from all others.

    Empty where the system does not say; then nobody can take over by process id.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{socket.gethostname()} {boot} {namespace}"


def _process_started(pid: int) -> int | None:
    """Return when a process began, in ticks since boot; None if there is none, or only a zombie.

    Fields 3 (state) and 22 (starttime) of proc_pid_stat(5).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
