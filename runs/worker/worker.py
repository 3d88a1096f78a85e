"""A worker: claims runs, keeps its lease, receives stops, recovers what others lost, drains.

It composes the executor, the recorder, the claim loop and the heartbeat. Their threads depend on no
event loop of the web server, so a busy site delays no heartbeat. Messages (``consumers``) only make
a worker act sooner than its polling would.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress

from django.db import connection

from agents.cancellation import StopCause
from runs.actions import leases, recovery
from runs.actions.finishing import Ended
from runs.conf import conf
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopDelivery
from runs.models import RunRecord

from .capacity import Capacity
from .claim_loop import ClaimLoop, submit
from .executor import Executor
from .heartbeat import DATABASE_ERRORS, Heartbeat
from .recorder import Recorder

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

MOST_DELIVERED_AT_ONCE = 10  # stops: each takes a tenth of a millisecond
UNWIND_SECONDS = 5.0  # for calls in flight at the end of a drain, before tasks are cancelled
CANCEL_SECONDS = 5.0  # for the cancelled tasks


class Worker:
    """Runs agents in this process, until it is drained.

    Args:
        claims: whether it claims queued runs. Without, it runs those that it is given (``adopt``).
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
        self._drain_lock = threading.Lock()
        self._is_drained = False
        self._is_stopped = False

    @property
    def id(self) -> uuid.UUID:
        return self.heartbeat.id

    @property
    def is_fenced(self) -> bool:
        """Whether its lease is over, or about to be: it has stopped its own runs then."""
        return self.heartbeat.is_fenced

    @property
    def blocked_seconds(self) -> float:
        """For how long an agent has blocked the agents' loop; 0 if none does."""
        return self.executor.blocked_seconds

    async def start(self) -> None:
        """Register, take over what dead predecessors on this host left, and start to claim."""
        await asyncio.to_thread(self.start_threads)

    async def drain(self) -> None:
        """Claim no new runs, let runs continue for a while, then unwind them; return at the end.

        Idempotent. Stops still work meanwhile.
        """
        await asyncio.to_thread(self.drain_threads)

    async def stop(self) -> None:
        """Release everything, after a drain. Idempotent."""
        await asyncio.to_thread(self.stop_threads)

    async def execute(self, run: uuid.UUID) -> Ended | None:
        """Claim a queued run in its turn, have it executed, and return how it ended.

        None if this worker did not get it at once: see ``ClaimLoop.claim_soon``.
        """
        if self.claim_loop is None:
            return None
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Ended | None] = loop.create_future()

        def set_result(how: Ended | None) -> None:
            if not ended.done():
                ended.set_result(how)

        def on_end(how: Ended | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nothing awaits this any more
                loop.call_soon_threadsafe(set_result, how)

        self.claim_loop.claim_soon(run, on_end)
        return await ended

    def start_threads(self) -> None:
        """``start`` for hosts without an event loop (and without a channel layer to listen to)."""
        self.heartbeat.register()
        self.recorder.start()
        self.executor.start()
        self.heartbeat.start()
        self._stops_thread.start()
        if self.claim_loop is not None:
            local_runs.add_waker(self.wake)
            self.claim_loop.start()
        connection.close()

    def adopt(self, record: RunRecord) -> None:
        """Run a record that was claimed for this worker at its birth."""
        submit(self.executor, record)

    def wake(self) -> bool:
        """Claim what was queued soon; return whether there is capacity. From any thread."""
        if self.claim_loop is None:
            return False
        self.claim_loop.wake()
        return self.claim_loop.has_capacity

    def poll(self) -> None:
        """Some run of this worker may have been asked to stop. From any thread; never blocks."""
        self.heartbeat.poll()

    def receive_stops(self, deliveries: Collection[StopDelivery]) -> None:
        """Runs of this worker were asked to stop. From any thread; never blocks.

        A few are delivered here. A thread delivers many, and those that a claim in progress delays.
        """
        are_many = len(deliveries) > MOST_DELIVERED_AT_ONCE
        if are_many or not local_runs.trip_unless_claiming(deliveries):
            self._stops.put(deliveries)

    def poll_started(self, runs: Iterable[uuid.UUID]) -> None:
        """Runs that were started from here may be over. From any thread; never blocks."""
        self.executor.started.poll(runs)

    def drain_threads(self) -> None:
        """``drain`` for hosts without an event loop; blocks."""
        self.heartbeat.is_draining.set()
        if self.claim_loop is not None:
            self.claim_loop.end()
        with self._drain_lock:
            if self._is_drained or not self.heartbeat.is_registered:
                return
            local_runs.remove_waker(self.wake)
            try:
                leases.mark_draining(self.id)
            except DATABASE_ERRORS as error:
                logger.warning("draining without saying so (%s)", type(error).__name__)
            if self.claim_loop is not None:
                self.claim_loop.join()
            self._unwind()
            self._is_drained = True
            connection.close()

    def stop_threads(self) -> None:
        """``stop`` for hosts without an event loop; blocks."""
        self.drain_threads()
        if self._is_stopped or not self.heartbeat.is_registered:
            return
        self._is_stopped = True
        self._stops.put(None)
        self.heartbeat.close()
        if self._stops_thread.ident is not None:
            self._stops_thread.join(5)
        if not self.recorder.close():
            logger.warning("not everything could be written before the end")
        self.executor.close()
        try:
            self._retire()
        except DATABASE_ERRORS as error:
            logger.warning("the worker could not sign off (%s)", type(error).__name__)
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
                logger.exception("a stop was received and not delivered; polling finds it")

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
            logger.warning("%d runs do not come back", self.executor.root_count)

    def _retire(self) -> None:
        """Sign off, and end the records of runs that did not come back."""
        leases.retire(self.id)
        while recovery.recover_runs(code="worker_shutdown", worker=self.id):
            pass  # callers after their children
        local_runs.remove_worker(self.id)
        for entry in self._own_runs():
            local_runs.remove(entry)

    def _own_runs(self) -> list[ActiveRun]:
        return [entry for entry in local_runs.all_runs() if entry.worker == self.id]

    def _abandon(self, entry: ActiveRun) -> None:
        """Stop the code of a run that is another worker's now."""
        entry.token.request(reason="the claim was lost", cause=StopCause.SHUTDOWN)
