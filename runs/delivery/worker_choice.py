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

__all__ = ["WorkerChoice", "choice"]

REFRESH_SECONDS = 1.0


class WorkerChoice:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[uuid.UUID, int] = {}  # worker -> how many runs it can take
        self._refresh_at = 0.0

    def choose(self) -> uuid.UUID | None:
        """Return a worker with capacity, and count one run against it; None if none is known.

        Queries at most once a second. The caller must not be in a transaction.
        """
        now = time.monotonic()
        with self._lock:
            is_due = now >= self._refresh_at
            if is_due:
                self._refresh_at = now + REFRESH_SECONDS  # other threads use the old counts
        found = _read() if is_due else None
        with self._lock:
            if found is not None:
                self._free.clear()
                self._free.update(found)
            worker = max(self._free, key=self._free.__getitem__, default=None)
            if worker is None or self._free[worker] <= 0:
                return None
            self._free[worker] -= 1
            return worker


def _read() -> dict[uuid.UUID, int]:
    taking = WorkerRecord.objects.filter(lost_at=None, draining_at=None, lease_until__gt=Now())
    running = Count("runs", filter=Q(runs__status=Status.RUNNING, runs__holds_slot=True))
    rows = taking.annotate(running=running).values_list("pk", "capacity", "running")
    return {worker: capacity - running for worker, capacity, running in rows}


#: Of this process.
choice = WorkerChoice()
