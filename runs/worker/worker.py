"""A worker: claims runs, keeps its lease, hears of stops, recovers what others lost, drains.

It hosts the executor and has three threads besides: one claims, one is the heart, one watches the
lease. None depends on the web server's event loop, so a busy site delays no heartbeat. Messages
(``consumers``) only make it look sooner.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import Collection, Iterable

from django.db import DatabaseError, InterfaceError, connection, reset_queries

from agents.cancellation import Lease, StopCause
from runs import metrics
from runs.actions import leases, recovery
from runs.conf import conf
from runs.delivery import local_runs, stops
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopDelivery
from runs.models import RunRecord, WorkerRecord
from runs.ops.logs import set_worker
from runs.queue.claims import QueueIsBusy
from runs.queue.limits import limits

from .capacity import Room
from .executor import Executor
from .keeper import RetentionThread
from .reaper import Caretaker
from .recorder import Recorder

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (DatabaseError, InterfaceError)  # the second is no kind of the first
LOOK_SECONDS = 0.5  # how often a worker looks for work and for stops nobody told it of
CLAIM_COUNT = 50  # runs in one claim
BUSY_SECONDS = (0.002, 0.01)  # until it asks again while another worker chooses: from, to
MOST_MET_AT_ONCE = 10  # stops: each takes a tenth of a millisecond
UNWIND_SECONDS = 5.0  # for calls in flight at the end of a drain, before tasks are cancelled
CANCEL_SECONDS = 5.0  # for the cancelled tasks
FENCE_SECONDS = 0.25  # how often it looks whether its own lease is about to end
CLAIMS = "runs-claims"  # the name of the thread that claims


class Worker:
    """Runs agents in this process, until it is drained.

    Args:
        claims: whether it takes queued runs. Without, it runs what it is given (``adopt``).
    """

    def __init__(self, *, claims: bool = True) -> None:
        options = conf()
        self._claims = claims
        self._most = options.max_concurrent
        self._room: Room | None = None  # of one that claims
        self._lease_seconds = float(options.lease_seconds)
        self._drain_seconds = float(options.drain_seconds)
        self._record: WorkerRecord | None = None
        self._recorder = Recorder(on_lost=self._abandon)
        self._executor = Executor(self._recorder, on_idle=self.wake)
        self._work = threading.Condition()
        self._has_work = False
        self._look = threading.Event()
        self._stops: queue.SimpleQueue[Collection[StopDelivery] | None] = queue.SimpleQueue()
        self._draining = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lease = Lease()
        self._next_renewal = 0.0
        self._retention = RetentionThread()
        self._drain_lock = threading.Lock()
        self._is_drained = False

    @property
    def id(self) -> uuid.UUID:
        assert self._record is not None, "the worker has not been started"
        return self._record.pk

    @property
    def is_fenced(self) -> bool:
        """Whether its lease is over, or about to be: it has stopped its own runs then."""
        return self._lease.is_over

    @property
    def blocked_seconds(self) -> float:
        """For how long an agent has kept the agents' loop from going round; 0 if none does."""
        return self._executor.blocked_seconds

    async def start(self) -> None:
        """Register, take over what dead predecessors on this host left, and begin to claim."""
        await asyncio.to_thread(self.start_threads)

    async def drain(self) -> None:
        """Take no new runs, let runs go on for a while, then unwind them; return when all is over.

        Idempotent. Stops still work meanwhile.
        """
        await asyncio.to_thread(self.drain_threads)

    async def stop(self) -> None:
        """Release everything, after a drain. Idempotent."""
        await asyncio.to_thread(self.stop_threads)

    def start_threads(self) -> None:
        """``start`` for hosts without an event loop (and without a channel layer to hear)."""
        if self._claims:
            self._room = Room(self._most)
        self._register()
        self._recorder.start()
        self._executor.start()
        targets = [
            (self._heart_main, "runs-heart"),
            (self._fence_main, "runs-fence"),
            (self._stops_main, "runs-stops"),
        ]
        if self._claims:
            local_runs.add_waker(self.wake)
            targets.append((self._claim_main, CLAIMS))
        for target, name in targets:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        if self._claims:
            self._retention.start()
        connection.close()

    def adopt(self, record: RunRecord) -> None:
        """Run a record that was claimed for this worker at its birth."""
        self._submit([record])

    def wake(self) -> None:
        """There may be work to claim. From any thread; never blocks."""
        with self._work:
            self._has_work = True
            self._work.notify()

    def look(self) -> None:
        """Some run of this worker may have been asked to stop. From any thread; never blocks."""
        self._look.set()

    def hear_stops(self, deliveries: Collection[StopDelivery]) -> None:
        """Runs of this worker were asked to stop. From any thread; never blocks.

        A few are met here. Many, and those for which a claim under way must be waited for, have a
        thread.
        """
        if len(deliveries) > MOST_MET_AT_ONCE or not local_runs.trip_unless_claiming(deliveries):
            self._stops.put(deliveries)

    def _stops_main(self) -> None:
        while (deliveries := self._stops.get()) is not None:
            try:
                local_runs.trip(deliveries)
            except Exception:  # whatever it is, the next one is heard
                logger.exception("a stop was heard and not passed on; the heart finds it")

    def look_at_started(self, runs: Iterable[uuid.UUID]) -> None:
        """Runs that were started from here may be over. From any thread; never blocks."""
        self._executor.started.look(runs)

    # Claiming.

    def _claim_main(self) -> None:
        while not self._draining.is_set():
            with self._work:
                self._work.wait_for(lambda: self._has_work, LOOK_SECONDS)
                self._has_work = False
            reset_queries()
            try:
                while not self._draining.is_set() and self._claim_some():
                    pass
            except Exception as error:  # whatever it is, the worker goes on
                _report("no runs can be claimed", error)
                connection.close()
                self._draining.wait(LOOK_SECONDS)
        connection.close()

    def _claim_some(self) -> bool:
        """Claim what fits; return whether there may be more."""
        count = min(CLAIM_COUNT, self._room_left())
        if count <= 0 or self._lease.is_over:  # what is claimed now could not call anything
            return False
        allowed = limits()
        try:
            with metrics.CLAIM_SECONDS.time():
                records = leases.claim(self.id, count, allowed)
        except QueueIsBusy:
            self._draining.wait(random.uniform(*BUSY_SECONDS))  # noqa: S311
            return True
        self._submit(records)
        # Within limits a claim leaves out what may not begin, and looks no further that time.
        return len(records) == count or bool(allowed and records)

    def _room_left(self) -> int:
        assert self._room is not None, "only a worker with room claims"
        said = self._room.limited_by
        left = self._room.left(self._executor.root_count)
        if self._room.limited_by != said:
            leases.note_limit(self.id, self._room.limited_by)
        return left

    def _submit(self, records: Iterable[RunRecord]) -> None:
        for record in records:
            entry = local_runs.get(record.pk)
            assert entry is not None, "a claim registers its runs"
            self._executor.submit(record, entry)

    # The heart.

    def _heart_main(self) -> None:
        caretaker = Caretaker(self._lease_seconds, lambda: self.id)
        is_more = False
        while not self._stopping.is_set():
            try:
                self._renew_if_due()
                is_more = caretaker.tick()
                self._meet_requests()
            except Exception as error:  # whatever it is, the worker goes on
                _report("a heartbeat failed", error)
                connection.close()
                is_more = False
            reset_queries()
            self._look.wait(0 if is_more else LOOK_SECONDS)
            self._look.clear()
        connection.close()

    def _fence_main(self) -> None:
        """Watch the lease without touching the database, which may keep the heart waiting."""
        while not self._stopping.wait(FENCE_SECONDS):
            self._fence_if_late()

    def _renew_if_due(self) -> None:
        """Renew every third of the lease; what fails is tried again at the next look."""
        now = time.monotonic()
        if now < self._next_renewal:
            return
        self._renew()
        self._next_renewal = now + self._lease_seconds / 3
        if recovery.recover_orphans(self.id):
            local_runs.wake()

    def _renew(self) -> None:
        began = time.monotonic()
        is_draining = self._draining.is_set()
        try:
            is_renewed = leases.renew(self.id, self._lease_seconds, is_draining=is_draining)
        except DATABASE_ERRORS:
            metrics.LEASE_RENEWALS.labels("failed").inc()
            raise
        metrics.LEASE_RENEWALS.labels("ok" if is_renewed else "lost").inc()
        if not is_renewed:
            logger.error("worker %s was declared lost by others; its runs are stopped", self.id)
            _end(self._lease, "the lease was lost")
            self._register_anew()
        elif not self._lease.extend(began + self._own_seconds()):
            # Too late, though no other has noticed. What was refused meanwhile is over for good.
            self._fence_if_late()
            self._begin_lease(began)

    def _register_anew(self) -> None:
        """Go on as another worker: the old one's claims are gone for good."""
        before = self.id
        local_runs.remove_worker(before)
        self._register(instead_of=before)

    def _register(self, *, instead_of: uuid.UUID | None = None) -> None:
        began = time.monotonic()
        room = self._room
        self._record = leases.register_worker(
            room.capacity if room else self._most,
            self._lease_seconds,
            limited_by=room.limited_by if room else "",
            instead_of=instead_of,
        )
        self._begin_lease(began)
        set_worker(self._record.pk)

    def _begin_lease(self, began: float) -> None:
        self._lease = Lease(began + self._own_seconds())
        self._next_renewal = began + self._lease_seconds / 3
        local_runs.add_worker(self.id, self._lease)

    def _own_seconds(self) -> float:
        """Return for how long behind a renewal its own runs may go on: less than others wait."""
        return self._lease_seconds - min(2.0, self._lease_seconds / 5)

    def _fence_if_late(self) -> None:
        """Stop the own runs before others may take the lease for over."""
        lease = self._lease  # the heart may begin another one meanwhile
        if lease.is_over:
            _end(lease, "the lease could not be renewed in time")

    def _meet_requests(self) -> None:
        """Trip the tokens of runs whose stop was asked for in another process."""
        stops.deliver_missed(self.id)

    def _mine(self) -> list[ActiveRun]:
        return [entry for entry in local_runs.all_runs() if entry.worker == self.id]

    def _abandon(self, entry: ActiveRun) -> None:
        """Others have taken a run over: whatever it still does here must end."""
        entry.token.request(reason="the claim was lost", cause=StopCause.SHUTDOWN)

    # The end.

    def drain_threads(self) -> None:
        """``drain`` for hosts without an event loop; blocks."""
        self._draining.set()
        self.wake()
        with self._drain_lock:
            if self._is_drained or self._record is None:
                return
            local_runs.remove_waker(self.wake)
            try:
                leases.mark_draining(self.id)
            except DATABASE_ERRORS as error:
                logger.warning("draining without saying so (%s)", type(error).__name__)
            for thread in self._threads:
                if thread.name == CLAIMS:
                    thread.join(LOOK_SECONDS + 5)
            self._unwind()
            self._is_drained = True
            connection.close()

    def _unwind(self) -> None:
        if self._executor.wait_until_empty(self._drain_seconds):
            return
        logger.info("the drain time is over, unwinding %d runs", self._executor.root_count)
        for entry in self._mine():
            entry.token.request(reason="the worker is shutting down", cause=StopCause.SHUTDOWN)
        if self._executor.wait_until_empty(UNWIND_SECONDS):
            return
        self._executor.cancel_all()
        if not self._executor.wait_until_empty(CANCEL_SECONDS):
            logger.warning("%d runs do not come back", self._executor.root_count)

    def stop_threads(self) -> None:
        """``stop`` for hosts without an event loop; blocks."""
        self.drain_threads()
        if self._stopping.is_set() or self._record is None:
            return
        self._stopping.set()
        self._look.set()
        self._stops.put(None)
        self._retention.close()
        for thread in self._threads:
            thread.join(5)
        if not self._recorder.close():
            logger.warning("not everything could be written before the end")
        self._executor.close()
        try:
            self._retire()
        except DATABASE_ERRORS as error:
            logger.warning("the worker could not sign off (%s)", type(error).__name__)
        connection.close()

    def _retire(self) -> None:
        """Sign off, and end the records of runs that did not come back."""
        leases.retire(self.id)
        while recovery.recover_runs(code="worker_shutdown", worker=self.id):
            pass  # callers after their children
        local_runs.remove_worker(self.id)
        for entry in self._mine():
            local_runs.remove(entry)


def _end(lease: Lease, reason: str) -> None:
    """End a lease, and stop the runs that were claimed under it; from any thread."""
    lease.end()
    for entry in local_runs.all_runs():
        if entry.token.lease is lease:
            entry.token.request(reason=reason, cause=StopCause.SHUTDOWN)


def _report(what: str, error: Exception) -> None:
    if isinstance(error, DATABASE_ERRORS):
        logger.warning("%s (%s), trying again", what, type(error).__name__)
    else:
        logger.error("%s, trying again", what, exc_info=error)
