"""Records in given states, inserted without running anything."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from runs.actions import leases
from runs.models import RunInput, RunRecord, WorkerRecord, uuid7
from runs.status import ACTIVE, Status


def make_worker(**fields: Any) -> WorkerRecord:
    """Register a worker of this process; ``fields`` override its defaults."""
    worker = leases.register_worker(capacity=10, lease_seconds=60)
    WorkerRecord.objects.filter(pk=worker.pk).update(**fields)
    worker.refresh_from_db()
    return worker


def make_dead_worker(**fields: Any) -> WorkerRecord:
    """Register a worker on this host whose process is gone, and whose lease is still valid."""
    return make_worker(pid=2**22 + 1, pid_started=1, **fields)


def make_run(
    owner: User,
    *,
    status: Status = Status.QUEUED,
    worker: WorkerRecord | None = None,
    **fields: Any,
) -> RunRecord:
    """Insert a run in ``status``, with what that status needs."""
    id: uuid.UUID = uuid7()
    parent: RunRecord | None = fields.pop("parent", None)
    now = timezone.now()
    values: dict[str, Any] = {
        "id": id,
        "agent": "made",
        "owner": owner,
        "status": status,
        "worker": worker,
        "parent": parent,
        "root_id": parent.root_id if parent else id,
        "depth": parent.depth + 1 if parent else 0,
        "created_at": now - timedelta(seconds=1),
    }
    if status != Status.QUEUED:
        values |= {"attempt": 1, "started_at": now}
    if status not in ACTIVE:
        values["finished_at"] = now
    if status == Status.ERROR:
        values["error"] = {"code": "x", "type": "X", "message": "x"}
    if status == Status.STOPPED:
        values["stop_requested_at"] = now
    run = RunRecord.objects.create(**{**values, **fields})
    if parent is not None:
        RunRecord.objects.filter(pk=parent.pk).update(has_children=True)
    RunInput.objects.create(run=run, value={})
    return run


def requested(owner: User | None = None, **fields: Any) -> dict[str, Any]:
    """Return the fields of a run with a stop request."""
    return {
        "stop_requested_at": timezone.now(),
        "stop_mode": "graceful",
        "stop_via": "api",
        "stop_reason": "enough",
        "stop_requested_by": owner,
        **fields,
    }
