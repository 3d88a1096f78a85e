"""A worker: claims runs, keeps its lease, receives stops, recovers runs of lost workers, drains.

It composes the executor, the recorder, the claim loop and the heartbeat. Their threads do not
depend on the web server's event loop, so a busy site delays no heartbeat. Messages (``consumers``)
only make a worker act sooner than its polls would.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress

from django.db import Error

from agents.cancellation import StopCause
from runs.actions import abandoning, leases, recovery
from runs.actions.finishing import Ended
from runs.conf import conf
from runs.db.alias import connection
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopDelivery
from runs.models import RunRecord
from runs.quotas.keeper import UsageThread

from .capacity import Capacity
from .claim_loop import ClaimLoop, submit
from .executor import Executor
from .heartbeat import Heartbeat
from .recorder import Recorder

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

MOST_DELIVERED_AT_ONCE = 10  # stops in the receiving thread: each takes 0.1 ms
UNWIND_SECONDS = 5.0  # for calls in flight at the end of a drain, before tasks are cancelled
CANCEL_SECONDS = 5.0  # for the cancelled tasks


class Worker:
    """Executes agents in this process, until it is drained.

    Args:
        claims: whether it claims queued runs. Without, it executes only runs given to ``adopt``.
    """

    def __init__(self, *, claims: bool = True) -> None:
        options = conf()
        self._drain_seconds = float(options.drain_seconds)
        self.recorder = Recorder(on_lost=self._abandon)
        self.executor = Executor(self.recorder, on_idle=self.wake)
        capacity = Capacity(options.max_concurrent) if claims else None
        self.heartbeat = Heartbeat(float(options.lease_seconds), capacity)
        self.claim_loop = ClaimLoop(self.heartbeat, self.executor, capacity) if capacity else None
        self._stops: queue.SimpleQueue[Collection[StopDelivery] | None] = queue.SimpleQueue()
        self._stops_thread = threading.Thread(
            target=self._stops_main, name="runs-stops", daemon=True
        )
        self._usage = UsageThread()
        self._drain_lock = threading.Lock()
        self._is_drained = False
        self._is_stopped = False

    @property
    def id(self) -> uuid.UUID:
        return self.heartbeat.id

    @property
    def is_fenced(self) -> bool:
        """Whether its lease is over, or about to be: the worker has stopped its own runs then."""
        return self.heartbeat.is_fenced

    @property
    def blocked_seconds(self) -> float:
        """How long an agent has blocked the agents' loop; 0 if none does."""
        return self.executor.blocked_seconds

    @property
    def abandoned_count(self) -> int:
        """How many runs were abandoned whose code is still here."""
        return self.executor.abandoned_count

    @property
    def has_capacity(self) -> bool:
        """Whether it would claim a run now. From any thread."""
        return self.claim_loop is not None and self.claim_loop.has_capacity

    async def start(self) -> None:
        """Register, recover runs of dead workers on this host, and start to claim."""
        await asyncio.to_thread(self.start_threads)

    async def drain(self) -> None:
        """Claim no new runs, let runs continue for a while, then unwind them; return at the end.

        Idempotent. Stop requests are still delivered meanwhile.
        """
        await asyncio.to_thread(self.drain_threads)

    async def stop(self) -> None:
        """Release everything, after a drain. Idempotent."""
        await asyncio.to_thread(self.stop_threads)

    async def execute(self, run: uuid.UUID) -> Ended | None:
        """Claim a queued run in its turn, await its execution, and return its ending.

        Return None if this worker's next claim does not get it: see ``ClaimLoop.claim_soon``.
        """
        if self.claim_loop is None:
            return None
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Ended | None] = loop.create_future()

        def set_result(how: Ended | None) -> None:
            if not ended.done():
                ended.set_result(how)

        def on_end(how: Ended | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(set_result, how)

        self.claim_loop.claim_soon(run, on_end)
        return await ended

    def start_threads(self) -> None:
        """Start as ``start`` does, in a host without an event loop and a channel layer; blocks."""
        self.heartbeat.register()
        self.recorder.start()
        self.executor.start()
        self.heartbeat.start()
        self._stops_thread.start()
        self._usage.start()
        if self.claim_loop is not None:
            local_runs.add_waker(self.wake)
            self.claim_loop.start()
        connection.close()

    def adopt(self, record: RunRecord) -> None:
        """Execute a run that was claimed for this worker when it was inserted."""
        submit(self.executor, record)

    def wake(self) -> bool:
        """Poll the queue now; return ``has_capacity``. From any thread; never blocks."""
        if self.claim_loop is not None:
            self.claim_loop.wake()
        return self.has_capacity

    def poll(self) -> None:
        """Poll for stop requests now. From any thread; never blocks."""
        self.heartbeat.poll()

    def receive_stops(self, deliveries: Collection[StopDelivery]) -> None:
        """Deliver stop requests to runs of this worker. From any thread; never blocks.

        A few are delivered at once. A thread delivers many, or those that wait for a claim.
        """
        are_many = len(deliveries) > MOST_DELIVERED_AT_ONCE
        if are_many or not local_runs.trip_unless_claiming(deliveries):
            self._stops.put(deliveries)

    def poll_started(self, runs: Iterable[uuid.UUID]) -> None:
        """Poll now whether runs started here are over. From any thread; never blocks."""
        self.executor.started.poll(runs)

    def drain_threads(self) -> None:
        """Drain as ``drain`` does, in a host without an event loop; blocks."""
        self.heartbeat.is_draining.set()
        if self.claim_loop is not None:
            self.claim_loop.end()
        with self._drain_lock:
            if self._is_drained or not self.heartbeat.is_registered:
                return
            local_runs.remove_waker(self.wake)
            try:
                leases.mark_draining(self.id)
            except Error as error:
                logger.warning("draining, but could not write that (%s)", type(error).__name__)
            if self.claim_loop is not None:
                self.claim_loop.join()
            self._unwind()
            self._is_drained = True
            connection.close()

    def stop_threads(self) -> None:
        """Stop as ``stop`` does, in a host without an event loop; blocks."""
        self.drain_threads()
        if self._is_stopped or not self.heartbeat.is_registered:
            return
        self._is_stopped = True
        self._stops.put(None)
        self.heartbeat.close()
        if self._stops_thread.ident is not None:
            self._stops_thread.join(5)
        if not self.recorder.close():
            logger.warning("could not write all updates before the end")
        self._usage.close()  # after the recorder, whose writes it adds
        self.executor.close()
        try:
            self._retire()
        except Error as error:
            logger.warning("could not write that the worker has ended (%s)", type(error).__name__)
        connection.close()

    @property
    def is_alive(self) -> bool:
        """Whether one of its threads is."""
        claims = self.claim_loop is not None and self.claim_loop.is_alive
        return claims or self.heartbeat.is_alive or self._stops_thread.is_alive()

    def _stops_main(self) -> None:
        while (deliveries := self._stops.get()) is not None:
            try:
                local_runs.trip(deliveries)
            except Exception:  # of any kind: the next stop must be delivered
                logger.exception("could not deliver stops that were received; polling finds them")

    def _unwind(self) -> None:
        if self.executor.wait_until_empty(self._drain_seconds):
            return
        logger.info("the drain time is over, unwinding %d runs", self.executor.root_count)
        for entry in self._own_runs():
            entry.token.request(reason="the worker is shutting down", cause=StopCause.SHUTDOWN)
        if self.executor.wait_until_empty(UNWIND_SECONDS):
            return
        self.executor.cancel_all()
        if not self.executor.wait_until_empty(CANCEL_SECONDS):
            logger.warning("%d runs did not end, though cancelled", self.executor.root_count)

    def _retire(self) -> None:
        """Write that the worker has ended, and end or requeue the runs that did not end."""
        leases.retire(self.id)
        abandoning.note_left_by_lost(self.id)
        while recovery.recover_runs(code="worker_shutdown", worker=self.id):
            pass  # again: callers end after their children
        local_runs.remove_worker(self.id)
        for entry in self._own_runs():
            local_runs.remove(entry)

    def _own_runs(self) -> list[ActiveRun]:
        return [entry for entry in local_runs.all_runs() if entry.worker == self.id]

    def _abandon(self, entry: ActiveRun) -> None:
        """Stop the code of a run whose claim was lost."""
        entry.token.request(reason="the claim was lost", cause=StopCause.SHUTDOWN)
