"""The heartbeat of a worker: its record, its lease, and its polls.

Two threads. ``runs-heart`` renews the lease, runs the reaper, stops runs at their limits, and polls
for stop requests whose message was lost. It may have to wait for the database. ``runs-fence`` never
uses the database: it watches the lease and stops the worker's runs before other workers may take
them.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid

from django.db import Error, reset_queries

from agents.cancellation import Lease, StopCause
from runs.actions import leases, limit_stops, recovery, stopping
from runs.conf import LeaseTimes
from runs.db.alias import connection
from runs.db.connecting import RETRY_SECONDS
from runs.db.writability import note_failure
from runs.delivery import local_runs, own_runs, stops
from runs.models import WorkerRecord
from runs.ops.logs import set_worker
from runs.process import metrics
from runs.queue import due

from .capacity import Capacity
from .reaper import Reaper

__all__ = ["POLL_SECONDS", "Heartbeat", "report_failure"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # how often it polls for stop requests that no message brought
FENCE_SECONDS = 0.25  # how often it checks whether its own lease is about to end


class Heartbeat:
    """Keeps the record and the lease of one worker.

    Args:
        capacity: the worker record shows it; None for a worker that claims nothing.
    """

    def __init__(self, lease_seconds: float, capacity: Capacity | None) -> None:
        self.is_draining = threading.Event()
        self.lease = Lease()
        self.next_renewal = 0.0
        self._next_limit = float("inf")  # when a run of this worker reaches one
        self._claims_until = float("inf")  # until its first lease starts
        self._lease_seconds = lease_seconds
        self._times = LeaseTimes(lease_seconds)
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
        """Whether its lease is over, or about to be: the worker has stopped its own runs then."""
        return self.lease.is_over

    @property
    def is_overdue(self) -> bool:
        """Whether a renewal is overdue, or the lease over: the worker should claim nothing."""
        return self.lease.is_over or time.monotonic() >= self._claims_until

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads. Waits at most 5 s for each: one may be waiting for the database."""
        self._stopping.set()
        self._poll.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(5)

    @property
    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def poll(self) -> None:
        """Poll for stop requests now: a message may be lost. From any thread; never blocks."""
        self._poll.set()

    def beat(self) -> bool:
        """Do what is due; return whether there is more to do without a pause."""
        self.renew_if_due()
        # All that uses this read comes next, before the steps that may take long. Those deliver the
        # stops that they write to the runs of this process by themselves.
        own = own_runs.read(self.id)
        self._next_limit = time.monotonic() + limit_stops.look_at_limits(own)
        stops.deliver_missed(own)
        own_runs.abort_lost(own)
        found = due.look()
        # After that read, which waits for no deadline that is over. Before the reaper: a run of a
        # lost worker that is overdue stops with its tree.
        is_more = found.deadlines and limit_stops.stop_overdue() >= limit_stops.MOST_OVERDUE
        is_more = self._reaper.tick(found) or is_more
        return (found.plans and stopping.escalate_due() >= stopping.MOST_DUE) or is_more

    def register(self, *, instead_of: uuid.UUID | None = None) -> None:
        """Write the worker's record, and start its first lease."""
        started = time.monotonic()
        capacity = self._capacity
        self._record = leases.register_worker(
            capacity.total if capacity else 0,
            self._lease_seconds,
            limited_by=capacity.limited_by if capacity else "",
            instead_of=instead_of,
        )
        self.start_lease(started)
        set_worker(self._record.pk)

    def renew_if_due(self) -> None:
        """Renew every third of the lease; a renewal that fails is tried again at the next poll."""
        now = time.monotonic()
        if now < self.next_renewal:
            return
        self.renew()
        self.next_renewal = now + self._times.renew_every
        if recovery.recover_orphans(self.id):
            local_runs.wake()

    def renew(self) -> None:
        started = time.monotonic()
        is_draining = self.is_draining.is_set()
        try:
            is_renewed = leases.renew(self.id, self._lease_seconds, is_draining=is_draining)
        except Error:
            metrics.LEASE_RENEWALS.labels("failed").inc()
            raise
        metrics.LEASE_RENEWALS.labels("ok" if is_renewed else "lost").inc()
        if not is_renewed:
            logger.error(
                "worker %s was declared lost by another process; stopping its runs", self.id
            )
            _end(self.lease, "the lease was lost")
            # The process continues as a new worker: the claims of this one are lost for good.
            before = self.id
            local_runs.remove_worker(before)
            self.register(instead_of=before)
        elif self.lease.extend(started + self._times.own_seconds):
            was_overdue = self.is_overdue
            self._claims_until = started + self._times.claim_within
            if was_overdue:
                local_runs.wake()
        else:
            # Renewed too late, though no process declared the worker lost. Its runs are stopped all
            # the same, since the guard may have refused calls meanwhile.
            self.fence_if_late()
            self.start_lease(started)

    def start_lease(self, started: float) -> None:
        self.lease = Lease(started + self._times.own_seconds)
        self.next_renewal = started + self._times.renew_every
        self._claims_until = started + self._times.claim_within
        local_runs.add_worker(self.id, self.lease)

    def fence_if_late(self) -> None:
        """Stop the worker's runs before other processes may declare it lost."""
        lease = self.lease  # the other thread may start another one meanwhile
        if lease.is_over:
            _end(lease, "the lease could not be renewed in time")

    def _heart_main(self) -> None:
        is_more = False
        while not self._stopping.is_set():
            try:
                is_more = self.beat()
                pause = self._pause()
            except Exception as error:  # of any kind: the worker must survive it
                report_failure("a heartbeat failed", error)
                connection.close()
                is_more, pause = False, RETRY_SECONDS
            reset_queries()
            self._poll.wait(0 if is_more else pause)
            self._poll.clear()
        connection.close()

    def _pause(self) -> float:
        """Return how long to wait for the next beat: not beyond the next renewal, or limit."""
        due = min(self.next_renewal, self._next_limit)
        return min(POLL_SECONDS, max(0.0, due - time.monotonic()))

    def _fence_main(self) -> None:
        while not self._stopping.wait(FENCE_SECONDS):
            self.fence_if_late()


def _end(lease: Lease, reason: str) -> None:
    """End a lease, and stop the runs that were claimed under it. From any thread."""
    lease.end()
    for entry in local_runs.all_runs():
        if entry.token.lease is lease:
            entry.token.request(reason=reason, cause=StopCause.SHUTDOWN)


def report_failure(what: str, error: Exception) -> None:
    """Log an error that a worker survives."""
    note_failure(error)
    if isinstance(error, Error):
        logger.warning("%s (%s), trying again", what, type(error).__name__)
    else:
        logger.error("%s, trying again", what, exc_info=error)
