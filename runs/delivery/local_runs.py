"""The runs of this process: the direct way for a stop, a wake-up, and the news of an end.

Services look here after they have committed; what is not here is in another process and is reached
by message or by its worker's heartbeat.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from agents.cancellation import CancelToken, Lease, StopCause
from agents.guard import Guard

from .stop_message import StopDelivery, StopRequest

__all__ = [
    "ActiveRun",
    "add",
    "add_worker",
    "all_runs",
    "claiming",
    "get",
    "lease_of",
    "remove",
    "remove_worker",
    "trip",
    "trip_unless_claiming",
    "wake",
]


@dataclass(slots=True, eq=False)
class ActiveRun:
    """A claimed run in this process, from its claim until its record is final."""

    id: uuid.UUID
    worker: uuid.UUID
    attempt: int = 1
    token: CancelToken = field(default_factory=CancelToken)
    guard: Guard | None = None  # once the executor has begun with it
    stop: StopRequest | None = None
    _is_logged: bool = False
    _logging: threading.Lock = field(default_factory=threading.Lock)

    def deliver(self, request: StopRequest) -> None:
        """Trip the token for a committed request."""
        if self.stop is None:
            self.stop = request
        self.log_stop()
        self.token.request(request.mode, request.reason, cause=StopCause.WISH)

    def log_stop(self) -> None:
        """Write the request into the run's log, once; later, if the run has not started."""
        with self._logging:
            if self.stop is not None and self.guard is not None and not self._is_logged:
                self._is_logged = True
                self.guard.trace.emit("stop_requested", self.stop.as_data())


_runs: dict[uuid.UUID, ActiveRun] = {}
_workers: dict[uuid.UUID, Lease] = {}
_wakers: list[Callable[[], object]] = []
_waiting: dict[uuid.UUID, list[threading.Event]] = {}
_lock = threading.Lock()  # of the four above; held for a moment only
_claiming = threading.RLock()  # held while a claim waits for the database


@contextlib.contextmanager
def claiming() -> Iterator[None]:
    """Make a claim and its ``add`` one step for ``trip``.

    A stop that commits right behind the claim would otherwise find nothing here to trip, and answer
    before the token knows of it. The agent loop never waits here.
    """
    with _claiming:
        yield


def add(run: ActiveRun) -> None:
    with _lock:
        _runs[run.id] = run


def get(run: uuid.UUID) -> ActiveRun | None:
    return _runs.get(run)


def all_runs() -> list[ActiveRun]:
    with _lock:
        return list(_runs.values())


def remove(run: ActiveRun | uuid.UUID) -> None:
    """Forget a run whose record is final (or handed back), and tell whoever waits for that.

    Of an entry only itself is forgotten: an attempt whose claim was lost may come to its end when
    the next one has begun here.
    """
    with _lock:
        id = run if isinstance(run, uuid.UUID) else run.id
        if isinstance(run, ActiveRun) and _runs.get(id) is not run:
            return
        _runs.pop(id, None)
        waiting = _waiting.pop(id, ())
    for event in waiting:
        event.set()


def trip_unless_claiming(deliveries: Collection[StopDelivery]) -> bool:
    """As ``trip``; but trip nothing, and return False, if a claim must be waited for."""
    with _lock:
        here, may_be_on_its_way = _find(deliveries)
    if not may_be_on_its_way:
        _deliver(here)
    return not may_be_on_its_way


def trip(deliveries: Collection[StopDelivery]) -> set[uuid.UUID]:
    """Trip the tokens of the runs that are in this process; return which those are.

    A run that has meanwhile been claimed anew is left alone. The requests are in all logs before
    the first token trips: a run further down may meet the stop before the last token's callbacks
    ran. From above, for the same reason: a child that is stopped first looks to its caller as if it
    alone had been. What has its caller in another process is at the top here.
    """
    with _lock:
        here, may_be_on_its_way = _find(deliveries)
    if may_be_on_its_way:
        with _claiming, _lock:
            here, _ = _find(deliveries)
    _deliver(here)
    return {entry.id for entry, _ in here}


def _deliver(here: Collection[tuple[ActiveRun, StopRequest]]) -> None:
    for entry, _ in here:
        entry.log_stop()
    tokens = {entry.token for entry, _ in here}
    for entry, request in here:
        if tokens.isdisjoint(entry.token.ancestors()):
            entry.deliver(request)


def _find(deliveries: Collection[StopDelivery]) -> tuple[list[tuple[ActiveRun, StopRequest]], bool]:
    """Return whom to trip, each with its request set, and whether a claim must be waited for."""
    found = []
    is_missing = False
    for delivery in deliveries:
        entry = _runs.get(delivery.run)
        if entry is None:
            is_missing = is_missing or delivery.worker in _workers
        elif (entry.worker, entry.attempt) == (delivery.worker, delivery.attempt):
            if entry.stop is None:
                entry.stop = delivery.request
            found.append((entry, delivery.request))
    return found, is_missing


def add_worker(worker: uuid.UUID, lease: Lease) -> None:
    """Say that a worker is in this process, and what its runs are claimed under from now on.

    A stop of its runs waits for a claim under way.
    """
    with _lock:
        _workers[worker] = lease


def lease_of(worker: uuid.UUID) -> Lease:
    """Return what runs of a worker are claimed under now; without end for one that is not here.

    To be asked for before the claim: others may declare the worker lost behind it, and it is not
    here any more when the claim is registered.
    """
    return _workers.get(worker) or Lease()


def remove_worker(worker: uuid.UUID) -> None:
    with _lock:
        _workers.pop(worker, None)


def add_waker(waker: Callable[[], object]) -> None:
    """Register a worker of this process: ``waker()`` makes it claim, and tells if it can."""
    with _lock:
        _wakers.append(waker)


def remove_waker(waker: Callable[[], object]) -> None:
    with _lock:
        if waker in _wakers:
            _wakers.remove(waker)


def wake() -> bool:
    """Have this process's workers claim; return whether one of them has capacity."""
    have_capacity = [waker() for waker in list(_wakers)]  # each must be called
    return any(have_capacity)


@contextlib.contextmanager
def watching(run: uuid.UUID) -> Iterator[threading.Event]:
    """Give an event that is set when ``run`` ends in this process."""
    event = threading.Event()
    with _lock:
        _waiting.setdefault(run, []).append(event)
    try:
        yield event
    finally:
        with _lock:
            events = _waiting.get(run, [])
            if event in events:
                events.remove(event)
            if not events:
                _waiting.pop(run, None)
