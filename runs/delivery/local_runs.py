"""The claimed runs and the workers of this process, which actions reach without a message."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from agents.cancellation import CancelToken, Lease, StopCause, StopMode
from agents.guard import Guard
from agents.options import NO_LIMITS, Limits
from agents.trace import Trace

from .stop_message import StopDelivery, StopRequest

__all__ = [
    "ActiveRun",
    "abandoned",
    "add",
    "add_waker",
    "add_worker",
    "all_runs",
    "claiming",
    "get",
    "is_news",
    "lease_of",
    "remove",
    "remove_waker",
    "remove_worker",
    "trace_of",
    "trip",
    "trip_unless_claiming",
    "wake",
    "watching",
]


@dataclass(slots=True, eq=False)
class ActiveRun:
    """A claimed run in this process, from its claim until its record is final."""

    id: uuid.UUID
    worker: uuid.UUID
    attempt: int = 1
    token: CancelToken = field(default_factory=CancelToken)
    guard: Guard | None = None  # set when its execution starts
    stop: StopRequest | None = None  # the hardest that has come
    caller: ActiveRun | None = None  # of a called run: it is executed here, too
    limits: Limits = NO_LIMITS
    deadline_at: datetime | None = None  # its own, or an earlier one of its caller
    near_deadline: datetime | None = None  # of which its log says that it is near
    traceparent: str | None = None  # of its span; without one, of what has started it
    is_lost: bool = False  # its record is gone, or has another claim: for good
    _logged: StopMode | None = None  # the hardest in its log
    _logged_reason: str | None = None  # of a stop that nobody requested, in its log
    _logging: threading.Lock = field(default_factory=threading.Lock)

    def note(self, request: StopRequest) -> None:
        """Keep a committed request, if it is harder than those before."""
        with self._logging:
            if self.stop is None or request.mode.rank > self.stop.mode.rank:
                self.stop = request

    def know_limits(self, limits: Limits, deadline_at: datetime | None, offset: float) -> None:
        """Apply the limits of the record; ``offset`` translates the database's clock.

        See ``db.clock.monotonic_offset``.
        """
        self.limits, self.deadline_at = limits, deadline_at
        ends_at = float("inf") if deadline_at is None else deadline_at.timestamp() + offset
        caller = self.caller
        if caller is not None and caller.deadline_at == deadline_at:
            ends_at = caller.token.deadline  # to the microsecond: it stops with its caller
        self.token.deadline = ends_at
        if self.guard is not None:
            self.guard.call_seconds = limits.call_seconds

    def deliver(self, request: StopRequest) -> None:
        """Trip the token for a committed request."""
        self.note(request)
        self.log_stop()
        self.token.request(request.mode, request.reason, cause=StopCause.REQUEST)

    def log_why(self) -> None:
        """Write into the run's log why its token was tripped, each reason once.

        Whichever comes first does so, the thread that trips it or the code that observes it: the
        log has the reason before the observation.
        """
        token = self.token
        if token.cause is StopCause.REQUEST and (self.stop or not token.has_reached_deadline):
            self.log_stop()
            return
        with self._logging:
            if self.guard is not None and self._logged_reason != token.reason:
                self._logged_reason = token.reason
                self.guard.trace.emit("log", {"level": "warning", "message": token.reason})

    def log_stop(self) -> None:
        """Write the request into the run's log, each mode once. Before it has a log, do nothing."""
        with self._logging:
            if self.stop is not None and self.guard is not None:
                for data in self.stop.events_after(self._logged):
                    self.guard.trace.emit("stop_requested", data)
                self._logged = self.stop.mode


_runs: dict[uuid.UUID, ActiveRun] = {}
_workers: dict[uuid.UUID, Lease] = {}
_wakers: list[Callable[[], object]] = []
_waiting: dict[uuid.UUID, set[threading.Event]] = {}
_lock = threading.Lock()  # of the four above; held for a moment only
_claiming = threading.RLock()  # held while a claim waits for the database


def claiming() -> contextlib.AbstractContextManager[bool]:
    """Make a claim and its ``add`` one step for ``trip``.

    Otherwise a stop that commits right after the claim would find no token to trip, and return
    before the token is tripped. The agents' loop never waits for this lock.
    """
    return _claiming


def add(run: ActiveRun) -> None:
    with _lock:
        _runs[run.id] = run


def get(run: uuid.UUID) -> ActiveRun | None:
    return _runs.get(run)


def trace_of(run: uuid.UUID) -> Trace | None:
    """Return the trace of a run that is executed in this process."""
    entry = _runs.get(run)
    return entry.guard.trace if entry is not None and entry.guard is not None else None


def all_runs() -> list[ActiveRun]:
    with _lock:
        return list(_runs.values())


def abandoned() -> list[ActiveRun]:
    """Return the runs that are over for their records, and whose code is still here."""
    return [run for run in all_runs() if run.token.mode is StopMode.ABANDON]


def remove(run: ActiveRun | uuid.UUID) -> None:
    """Forget a run whose record is final or requeued, and set the events of ``watching``.

    Given an entry, forget no other: an attempt whose claim was lost may end after the next attempt
    has started here.
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
    """Trip as ``trip`` does; if a claim is in progress, return False and trip nothing."""
    with _lock:
        here, may_be_claiming = _find(deliveries)
    if not may_be_claiming:
        _deliver(here)
    return not may_be_claiming


def trip(deliveries: Collection[StopDelivery]) -> set[uuid.UUID]:
    """Trip the tokens of the runs that are in this process; return the ids of these runs.

    A run that has been claimed again since is skipped. All logs get their request before the first
    token trips: a run may observe the stop before the callbacks of the last token have run. Tokens
    trip from the top: else a caller could take the stop for its child's own. A run whose caller is
    in another process is a top here. A run below may have a harder stop of its own.
    """
    with _lock:
        here, may_be_claiming = _find(deliveries)
    if may_be_claiming:
        with _claiming, _lock:
            here, _ = _find(deliveries)
    _deliver(here)
    return {entry.id for entry, _ in here}


def _deliver(here: Collection[tuple[ActiveRun, StopRequest]]) -> None:
    for entry, request in here:
        entry.note(request)
        entry.log_stop()
    tokens = {entry.token for entry, _ in here}
    for entry, request in here:
        if tokens.isdisjoint(entry.token.ancestors()):
            entry.deliver(request)
    for entry, request in here:
        if is_news(entry.token, request.mode):
            entry.deliver(request)


def is_news(token: CancelToken, mode: StopMode) -> bool:
    """Tell whether a stop request with ``mode`` would change a token."""
    return token.cause is not StopCause.REQUEST or token.mode is None or mode.rank > token.mode.rank


def _find(deliveries: Collection[StopDelivery]) -> tuple[list[tuple[ActiveRun, StopRequest]], bool]:
    """Return the runs to trip, and whether a claim in progress may bring more of them."""
    found = []
    is_missing = False
    for delivery in deliveries:
        entry = _runs.get(delivery.run)
        if entry is None:
            is_missing = is_missing or delivery.worker in _workers
        elif (entry.worker, entry.attempt) == (delivery.worker, delivery.attempt):
            found.append((entry, delivery.request))
    return found, is_missing


def add_worker(worker: uuid.UUID, lease: Lease) -> None:
    """Register a worker, whose claims stops wait for, with the lease of its next claims."""
    with _lock:
        _workers[worker] = lease


def lease_of(worker: uuid.UUID) -> Lease:
    """Return the lease under which a worker claims now; an endless one if it is not here.

    Call it before the claim: after it the worker may be declared lost, and removed from here.
    """
    return _workers.get(worker) or Lease()


def remove_worker(worker: uuid.UUID) -> None:
    with _lock:
        _workers.pop(worker, None)


def add_waker(waker: Callable[[], object]) -> None:
    """Register ``waker``: it makes a worker poll the queue, and returns whether it has capacity."""
    with _lock:
        _wakers.append(waker)


def remove_waker(waker: Callable[[], object]) -> None:
    with _lock:
        if waker in _wakers:
            _wakers.remove(waker)


def wake() -> bool:
    """Let this process's workers poll the queue; return whether one of them has capacity."""
    have_capacity = [waker() for waker in list(_wakers)]  # a list: any() would skip some
    return any(have_capacity)


@contextlib.contextmanager
def watching(run: uuid.UUID) -> Iterator[threading.Event]:
    """Yield an event that is set when ``run`` ends in this process."""
    event = threading.Event()
    with _lock:
        _waiting.setdefault(run, set()).add(event)
    try:
        yield event
    finally:
        with _lock:
            events = _waiting.get(run, set())
            events.discard(event)
            if not events:
                _waiting.pop(run, None)
