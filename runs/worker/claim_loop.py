"""The thread that claims queued runs for a worker, and passes them to its executor."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import uuid
from collections.abc import Callable

from django.db import reset_queries

from runs.actions import leases
from runs.actions.finishing import Ended
from runs.conf import conf
from runs.db.alias import connection
from runs.db.connecting import RETRY_SECONDS
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.process import metrics
from runs.queue import claims
from runs.queue.claims import QueueIsBusy
from runs.queue.limits import limits

from .capacity import Capacity
from .executor import Executor
from .heartbeat import Heartbeat, report_failure

__all__ = ["ClaimLoop", "submit"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # how often it polls the queue when no message comes
CLAIM_COUNT = 50  # runs in one claim
OnEnd = Callable[[Ended | None], None]
BLOCKED = "abandoned code blocks the agents' loop"
BUSY_SECONDS = (0.002, 0.01)  # from, to: the pause before a retry while another worker claims


class ClaimLoop:
    """Claims runs, as many as fit into ``capacity``, until ``end`` is called.

    Args:
        heartbeat: has the worker's id and lease.
    """

    def __init__(self, heartbeat: Heartbeat, executor: Executor, capacity: Capacity) -> None:
        self.capacity = capacity
        self._heartbeat = heartbeat
        self._executor = executor
        self._work = threading.Condition()
        self._has_work = False
        self._awaited: dict[uuid.UUID, OnEnd] = {}
        self._noted = (capacity.total, capacity.limited_by)
        self._is_replaced = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runs-claims", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Claim no more. Does not wait for a claim in progress: see ``join``."""
        self._ending.set()
        self.wake()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(POLL_SECONDS + 5)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def has_capacity(self) -> bool:
        """Whether it would claim a run now. From any thread."""
        is_free = self._executor.taken_count < self.capacity.total
        is_free = is_free and not self._executor.is_blocked_by_abandoned
        return is_free and not self._ending.is_set() and not self._heartbeat.is_overdue

    def wake(self) -> None:
        """Poll the queue now. From any thread; never blocks."""
        with self._work:
            self._has_work = True
            self._work.notify()

    def claim_soon(self, run: uuid.UUID, on_end: OnEnd) -> None:
        """Claim a queued run in its turn. From any thread; never blocks.

        ``on_end`` is called in another thread with the run's ending. It is called with None if the
        next claim of this worker does not get the run: another worker did, or it has no capacity.
        """
        with self._work:
            if not self._ending.is_set():
                self._awaited[run] = on_end
                self._has_work = True
                self._work.notify()
                return
        on_end(None)

    def _main(self) -> None:
        while not self._ending.is_set():
            with self._work:
                is_woken = self._work.wait_for(lambda: self._has_work, POLL_SECONDS)
                self._has_work = False
                awaited, self._awaited = self._awaited, {}
            reset_queries()
            try:
                if is_woken or claims.is_any_queued():
                    while not self._ending.is_set() and self.claim_some(awaited):
                        pass
                else:
                    self._capacity_left()  # its record is right, though it claims nothing
            except Exception as error:  # of any kind: the worker must survive it
                report_failure("could not claim runs", error)
                connection.close()
                self._ending.wait(RETRY_SECONDS)
                self.wake()
            for on_end in awaited.values():
                on_end(None)
        with self._work:
            awaited, self._awaited = self._awaited, {}
        for on_end in awaited.values():
            on_end(None)
        connection.close()

    def claim_some(self, awaited: dict[uuid.UUID, OnEnd] | None = None) -> bool:
        """Claim as many runs as fit; return whether there may be more.

        Removes the claimed runs from ``awaited``; their callbacks there get the endings.
        """
        worker = self._heartbeat.id
        count = min(CLAIM_COUNT, self._capacity_left())
        # The claim itself compares the lease, too, by the database's clock.
        if count <= 0 or self._heartbeat.is_overdue:
            return False
        allowed = limits()
        try:
            with metrics.CLAIM_SECONDS.time():
                # While an agent blocks the loop, claimed runs wait: each begins by its own write.
                records = leases.claim(worker, count, allowed, self._executor.is_prompt)
        except QueueIsBusy:
            self._ending.wait(random.uniform(*BUSY_SECONDS))  # noqa: S311
            return True
        for record in records:
            submit(self._executor, record, awaited.pop(record.pk, None) if awaited else None)
        # Under limits a claim leaves out runs that may not start, and does not replace them.
        return len(records) == count or bool(allowed and records)

    def _capacity_left(self) -> int:
        """Return how many more runs fit, and let the worker's record say what it takes and why."""
        left = self.capacity.left(self._executor.taken_count)
        total, limited_by = self.capacity.total, self.capacity.limited_by
        if self._executor.is_blocked_by_abandoned:
            left, total, limited_by = 0, 0, BLOCKED
            self._replace_if_due()
        elif count := self._executor.abandoned_count:
            total = max(0, total - count)
            limited_by = f"code of {count} abandoned runs that has not ended"
        if self._noted != (total, limited_by):
            leases.note_capacity(self._heartbeat.id, total, limited_by)
            self._noted = (total, limited_by)
        return left

    def _replace_if_due(self) -> None:
        """End this process as its supervisor would, if it is to be replaced when it is blocked."""
        seconds = conf().replace_when_blocked_seconds
        if seconds and self._executor.blocked_seconds >= seconds and not self._is_replaced:
            self._is_replaced = True
            logger.error("%s, for %g s: this process drains and ends", BLOCKED, seconds)
            os.kill(os.getpid(), signal.SIGTERM)


def submit(executor: Executor, record: RunRecord, on_end: OnEnd | None = None) -> None:
    """Pass a claimed run to the executor; ``on_end`` gets its ending."""
    entry = local_runs.get(record.pk)
    assert entry is not None, "a claim registers its runs"
    executor.submit(record, entry, on_end)
