"""The reaper: recover the runs of lost workers, end overdue runs, remove old records.

It makes stops harder as they were planned, and notes when abandoned code has ended with its worker.
It also stops runs whose deadline is over, and the runs of users who were deactivated by a way that
sends no signal.

A worker's heartbeat runs it. A process without a worker runs it in a thread of its own: otherwise
the runs of the last worker would stay ``running`` after that worker was killed. Any number of
processes may run it at once: the second one changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

from django.db import reset_queries
from django.utils import timezone

from runs.actions import abandoning, leases, limit_stops, owners, recovery, stopping
from runs.conf import LeaseTimes
from runs.db.alias import connection
from runs.db.connecting import RETRY_SECONDS
from runs.db.writability import note_failure
from runs.delivery import notify
from runs.identity import audit
from runs.queue import due
from runs.queue.due import Due
from runs.quotas.keeper import UsageThread

from .retention import MOST_SHARE, REST_SECONDS, Retention

__all__ = ["Reaper", "ReaperThread"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # how often it checks the processes of workers on this host
FORGET_SECONDS = 3600.0  # how often it removes the records of workers lost long ago


class Reaper:
    """Does what is due, at each ``tick``.

    Args:
        lease_seconds: how long a worker's lease is.
        self_id: returns the id of this process's worker, if it has one. Only a worker removes old
            runs.
    """

    def __init__(
        self, lease_seconds: float, self_id: Callable[[], uuid.UUID] | None = None
    ) -> None:
        self._times = LeaseTimes(lease_seconds)
        self._self_id = self_id
        self._retention = Retention() if self_id is not None else None
        self._next_poll = 0.0
        self._next_reaping = 0.0
        self._next_forgetting = 0.0
        self._next_retention = 0.0

    def tick(self, found: Due | None = None) -> bool:
        """Do what is due; return whether there is more to do without a pause.

        ``found`` is what a look has just found; without it this looks.

        From one thread. However many runs were lost, a call is short enough to renew a lease after
        it. The next call repeats what failed.

        Raises:
            django.db.Error: the database failed or refused.
        """
        now = time.monotonic()
        if now < self._next_poll:
            return False
        self._next_poll = now + POLL_SECONDS
        found = found or due.look()
        self_id = self._self_id() if self._self_id else None
        if self_id is None:  # a worker does both twice a second
            if found.deadlines:
                limit_stops.stop_overdue()
            if found.plans:
                stopping.escalate_due()
        lost = leases.mark_vanished_workers(self_id)
        if now >= self._next_reaping:
            lost += leases.mark_lost_leases(self_id)
            owners.stop_all_of_inactive()
            self._next_reaping = now + self._times.reap_every
        for worker in lost:
            abandoning.note_left_by_lost(worker.pk)
        recovered = 0
        if lost or found.lost_runs:
            recovered = recovery.recover_runs(seconds=self._times.recover_within)
            if not recovered:
                recovery.free_runs()
            notify.wake_workers()  # some may be queued again
        if now >= self._next_forgetting:
            abandoning.note_left_by_lost()  # a process may have died before it did
            if self_id is not None:
                abandoning.note_unexecuted(self_id)
            leases.forget_workers()
            audit.remove_old()
            self._next_forgetting = now + FORGET_SECONDS
        is_more = recovered > 0
        if found.queue:
            is_more = recovery.end_overdue(timezone.now()) > 0 or is_more
        if is_more:
            self._next_poll = now
        elif self._retention is not None:
            self._remove_old(self._retention)
        return is_more

    def _remove_old(self, retention: Retention) -> None:
        """Do one step of the retention, if its pause is over."""
        started = time.monotonic()
        if started < self._next_retention:
            return
        self._next_retention = started + REST_SECONDS  # also if the step fails
        if retention.tick():
            ended = time.monotonic()
            self._next_retention = ended + (ended - started) / MOST_SHARE


class ReaperThread:
    """A reaper for a process without a worker, which keeps the usage of owners as well."""

    def __init__(self, lease_seconds: float) -> None:
        self._reaper = Reaper(lease_seconds)
        self._usage = UsageThread()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runs-reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._usage.start()

    def close(self) -> None:
        """End its threads. Waits at most 5 s for each: it may be waiting for the database."""
        self._closing.set()
        self._usage.close()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _main(self) -> None:
        is_failing = is_more = False
        while not self._closing.is_set():
            try:
                is_more = self._reaper.tick()
                is_failing = False
            except Exception as error:  # of any kind: there may be no other reaper
                note_failure(error)
                if not is_failing:
                    logger.warning("the reaper failed (%s), trying again", error)
                is_failing, is_more = True, False
                connection.close()
            reset_queries()
            if not is_more:
                self._closing.wait(RETRY_SECONDS if is_failing else POLL_SECONDS)
        connection.close()
