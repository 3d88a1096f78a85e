"""Choose the worker that a queued run is offered to: the one with the most free capacity.

The counts are up to a second old. A worker that is full by then wakes the others; if it is gone,
the others find the run by polling.
"""

from __future__ import annotations

import threading
import time
import uuid

from django.db.models import Count, Q
from django.db.models.functions import Now

from runs.models import WorkerRecord
from runs.status import Status

__all__ = ["choose_worker"]

REFRESH_SECONDS = 1.0

_lock = threading.Lock()
_free: dict[uuid.UUID, int] = {}  # worker -> how many runs it can take
_refresh_at = 0.0


def choose_worker() -> uuid.UUID | None:
    """Return a worker with capacity, and count one run against it; None if none is known.

    Queries at most once a second. The caller must not be in a transaction.
    """
    global _refresh_at
    now = time.monotonic()
    with _lock:
        is_due = now >= _refresh_at
        if is_due:
            _refresh_at = now + REFRESH_SECONDS  # other threads use the old counts meanwhile
    if is_due:
        found = _read()
        with _lock:
            _free.clear()
            _free.update(found)
    with _lock:
        worker = max(_free, key=_free.__getitem__, default=None)
        if worker is None or _free[worker] <= 0:
            return None
        _free[worker] -= 1
        return worker


def _read() -> dict[uuid.UUID, int]:
    taking = WorkerRecord.objects.filter(lost_at=None, draining_at=None, lease_until__gt=Now())
    running = Count("runs", filter=Q(runs__status=Status.RUNNING, runs__holds_slot=True))
    rows = taking.annotate(running=running).values_list("pk", "capacity", "running")
    return {worker: capacity - running for worker, capacity, running in rows}


def forget() -> None:
    """Ask the database again the next time: for tests, whose databases come and go."""
    global _refresh_at
    with _lock:
        _free.clear()
        _refresh_at = 0.0
