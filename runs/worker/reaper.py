"""What is looked after while anybody is there: lost workers, runs that wait too long, old records.

A worker's heart does it. A process that has no worker does it in a thread of its own, or nobody
would tell the truth about the runs of the last worker when that one is killed. Many may do it at
once: whoever comes second changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

from django.db import connection, reset_queries
from django.utils import timezone

from runs.actions import leases, recovery
from runs.delivery import notify

__all__ = ["Caretaker", "CaretakerThread"]

logger = logging.getLogger(__name__)

NEIGHBOURS_SECONDS = 1.0  # how often it looks for neighbours that have vanished
FORGET_SECONDS = 3600.0  # how often it removes the records of workers that are long gone
REAPINGS = 3  # looks for leases that are over, in the time of one


class Caretaker:
    """Does what is due, whenever it is asked to.

    Args:
        lease_seconds: how long a worker's lease is.
        me: says which worker is asking, if one is.
    """

    def __init__(self, lease_seconds: float, me: Callable[[], uuid.UUID] | None = None) -> None:
        self._reaping_seconds = lease_seconds / REAPINGS
        self._recovery_seconds = lease_seconds / 6  # a heart beats every third of it
        self._me = me
        self._next_look = 0.0
        self._next_reaping = 0.0
        self._next_forgetting = 0.0

    def tick(self) -> bool:
        """Do what is due; return whether there is more of it, to be done without a pause.

        From one thread. It does so much that a heart may beat between two ticks, however many runs
        were lost; what fails is done again at the next time.

        Raises:
            django.db.Error: whatever the database has to say.
        """
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + NEIGHBOURS_SECONDS
        me = self._me() if self._me else None
        found = leases.mark_vanished_neighbours(me)
        if now >= self._next_reaping:
            found += leases.mark_lost_leases(me)
            self._next_reaping = now + self._reaping_seconds
        recovered = recovery.recover_runs(seconds=self._recovery_seconds)
        if not recovered:
            recovery.free_runs()
        if found or recovered:  # what was handed back is to be claimed
            notify.wake_workers()
        if now >= self._next_forgetting:
            leases.forget_workers()
            self._next_forgetting = now + FORGET_SECONDS
        is_more = recovered + recovery.end_overdue(timezone.now()) > 0
        if is_more:
            self._next_look = now
        return is_more


class CaretakerThread:
    """A caretaker for a process without a worker."""

    def __init__(self, lease_seconds: float) -> None:
        self._caretaker = Caretaker(lease_seconds)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runs-caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End it; blocks for as long as the database keeps it waiting, within limits."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _main(self) -> None:
        is_failing = is_more = False
        while not self._closing.is_set():
            try:
                is_more = self._caretaker.tick()
                is_failing = False
            except Exception as error:  # whatever it is, there may be nobody else
                if not is_failing:
                    logger.warning("lost workers can't be looked for (%s), trying again", error)
                is_failing, is_more = True, False
                connection.close()
            reset_queries()
            if not is_more:
                self._closing.wait(NEIGHBOURS_SECONDS)
        connection.close()
