"""The heartbeat of a worker: its record, its lease, and what it looks after in between.

Two threads. ``runs-heart`` renews the lease, reaps what lost workers left, and polls for stop
requests whose message was lost. ``runs-fence`` watches the lease without touching the database,
which may keep the other one waiting, and stops the worker's runs before others may take them.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid

from django.db import DatabaseError, InterfaceError, connection, reset_queries

from agents.cancellation import Lease, StopCause
from runs import metrics
from runs.actions import leases, recovery
from runs.delivery import local_runs, stops
from runs.models import WorkerRecord
from runs.ops.logs import set_worker

from .capacity import Capacity
from .reaper import Reaper

__all__ = ["DATABASE_ERRORS", "POLL_SECONDS", "Heartbeat", "report_failure"]

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (DatabaseError, InterfaceError)  # the second is no kind of the first
POLL_SECONDS = 0.5  # how often it polls for stop requests that no message brought
FENCE_SECONDS = 0.25  # how often it looks whether its own lease is about to end


class Heartbeat:
    """Keeps one worker alive in the eyes of the others.

    Args:
        capacity: what the record says about it; None for a worker that claims nothing.
    """

    def __init__(self, lease_seconds: float, capacity: Capacity | None) -> None:
        self.is_draining = threading.Event()
        self.lease = Lease()
        self.next_renewal = 0.0
        self._lease_seconds = lease_seconds
        self._capacity = capacity
        self._record: WorkerRecord | None = None
        self._reaper = Reaper(lease_seconds, lambda: self.id)
        self._poll = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._heart_main, name="runs-heart", daemon=True),
            threading.Thread(target=self._fence_main, name="runs-fence", daemon=True),
        ]

    @property
    def id(self) -> uuid.UUID:
        assert self._record is not None, "the worker has not been started"
        return self._record.pk

    @property
    def is_registered(self) -> bool:
        return self._record is not None

    @property
    def is_fenced(self) -> bool:
        """Whether its lease is over, or about to be: it has stopped its own runs then."""
        return self.lease.is_over

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads; blocks for as long as the database keeps them waiting, within limits."""
        self._stopping.set()
        self._poll.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(5)

    @property
    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def poll(self) -> None:
        """Look for stop requests soon: a message may be lost. From any thread; never blocks."""
        self._poll.set()

    def beat(self) -> bool:
        """Do what is due; return whether there is more, to be done without a pause."""
        self.renew_if_due()
        is_more = self._reaper.tick()
        stops.deliver_missed(self.id)
        return is_more

    def register(self, *, instead_of: uuid.UUID | None = None) -> None:
        """Write the worker's record; its first lease starts."""
        began = time.monotonic()
        capacity = self._capacity
        self._record = leases.register_worker(
            capacity.total if capacity else 0,
            self._lease_seconds,
            limited_by=capacity.limited_by if capacity else "",
            instead_of=instead_of,
        )
        self.start_lease(began)
        set_worker(self._record.pk)

    def renew_if_due(self) -> None:
        """Renew every third of the lease; a renewal that fails is tried again at the next poll."""
        now = time.monotonic()
        if now < self.next_renewal:
            return
        self.renew()
        self.next_renewal = now + self._lease_seconds / 3
        if recovery.recover_orphans(self.id):
            local_runs.wake()

    def renew(self) -> None:
        began = time.monotonic()
        is_draining = self.is_draining.is_set()
        try:
            is_renewed = leases.renew(self.id, self._lease_seconds, is_draining=is_draining)
        except DATABASE_ERRORS:
            metrics.LEASE_RENEWALS.labels("failed").inc()
            raise
        metrics.LEASE_RENEWALS.labels("ok" if is_renewed else "lost").inc()
        if not is_renewed:
            logger.error("worker %s was declared lost by others; its runs are stopped", self.id)
            _end(self.lease, "the lease was lost")
            # It continues as another worker: the claims of this one are gone for good.
            before = self.id
            local_runs.remove_worker(before)
            self.register(instead_of=before)
        elif not self.lease.extend(began + self._own_seconds()):
            # Too late, though no other worker has noticed. Calls refused meanwhile stay refused.
            self.fence_if_late()
            self.start_lease(began)

    def start_lease(self, began: float) -> None:
        self.lease = Lease(began + self._own_seconds())
        self.next_renewal = began + self._lease_seconds / 3
        local_runs.add_worker(self.id, self.lease)

    def fence_if_late(self) -> None:
        """Stop the own runs before others may take the lease for over."""
        lease = self.lease  # the heart may start another one meanwhile
        if lease.is_over:
            _end(lease, "the lease could not be renewed in time")

    def _own_seconds(self) -> float:
        """Return for how long after a renewal its own runs may continue: less than others wait."""
        return self._lease_seconds - min(2.0, self._lease_seconds / 5)

    def _heart_main(self) -> None:
        is_more = False
        while not self._stopping.is_set():
            try:
                is_more = self.beat()
            except Exception as error:  # of any kind: the worker must live on
                report_failure("a heartbeat failed", error)
                connection.close()
                is_more = False
            reset_queries()
            self._poll.wait(0 if is_more else POLL_SECONDS)
            self._poll.clear()
        connection.close()

    def _fence_main(self) -> None:
        while not self._stopping.wait(FENCE_SECONDS):
            self.fence_if_late()


def _end(lease: Lease, reason: str) -> None:
    """End a lease, and stop the runs that were claimed under it; from any thread."""
    lease.end()
    for entry in local_runs.all_runs():
        if entry.token.lease is lease:
            entry.token.request(reason=reason, cause=StopCause.SHUTDOWN)


def report_failure(what: str, error: Exception) -> None:
    """Log an error that a worker survives."""
    if isinstance(error, DATABASE_ERRORS):
        logger.warning("%s (%s), trying again", what, type(error).__name__)
    else:
        logger.error("%s, trying again", what, exc_info=error)
