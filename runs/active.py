"""The runs of this process: the direct way for a stop, a wake-up, and the news of an end.

Services look here after they have committed; what is not here is in another process and is reached
by message or by its worker's heartbeat.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agents.cancellation import CancelToken, StopCause, StopMode
from agents.guard import Guard

from .models import RunRecord

__all__ = [
    "ActiveRun",
    "StopRequest",
    "add",
    "all_runs",
    "claiming",
    "get",
    "remove",
    "trip",
    "wake",
]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """What the receipt of a run says of the request; goes into its ``stop_requested`` event."""

    mode: StopMode
    reason: str
    via: str
    requested_by: str | None  # username
    requested_at: datetime
    root_request: uuid.UUID

    @classmethod
    def of(cls, record: RunRecord) -> StopRequest:
        """Return the request that a record carries."""
        assert record.stop_requested_at is not None
        by = record.stop_requested_by
        return cls(
            StopMode(record.stop_mode),
            record.stop_reason,
            record.stop_via,
            by.get_username() if by is not None else None,
            record.stop_requested_at,
            record.stop_root_request or record.pk,
        )

    def as_data(self) -> dict[str, Any]:
        return {
            "mode": str(self.mode),
            "reason": self.reason,
            "via": self.via,
            "requested_by": self.requested_by,
            "requested_at": self.requested_at.isoformat(),
            "root_request": str(self.root_request),
        }


@dataclass(slots=True, eq=False)
class ActiveRun:
    """A claimed run in this process, from its claim until its record is final."""

    id: uuid.UUID
    worker: uuid.UUID
    attempt: int = 1
    token: CancelToken = field(default_factory=CancelToken)
    guard: Guard | None = None  # once the executor has begun with it
    stop: StopRequest | None = None
    #: Whether the log has the ``stop_requested`` event already.
    stop_told: bool = False
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, request: StopRequest) -> None:
        """Trip the token for a committed request."""
        if self.stop is None:
            self.stop = request
        self.tell()
        self.token.request(request.mode, request.reason, cause=StopCause.WISH)

    def tell(self) -> None:
        """Write the request into the run's log, once; later, if the run has not begun."""
        with self._telling:
            if self.stop is not None and self.guard is not None and not self.stop_told:
                self.guard.trace.emit("stop_requested", self.stop.as_data())


_runs: dict[uuid.UUID, ActiveRun] = {}
_wakers: list[Callable[[], None]] = []
_waiting: dict[uuid.UUID, list[threading.Event]] = {}
_lock = threading.Lock()  # of the three above; held for a moment only
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


def remove(run: uuid.UUID) -> None:
    """Forget a run whose record is final (or handed back), and tell whoever waits for that."""
    with _lock:
        _runs.pop(run, None)
        waiting = _waiting.pop(run, ())
    for event in waiting:
        event.set()


def trip(runs: Iterable[uuid.UUID], requests: Mapping[uuid.UUID, StopRequest]) -> set[uuid.UUID]:
    """Trip the tokens of ``runs`` and of all below them; return those that are in this process.

    ``requests`` has the committed request of each run concerned. They are in all logs before the
    first token trips: a run further down may meet the stop before the last token's callbacks ran.
    """
    with _claiming, _lock:
        for id, request in requests.items():
            entry = _runs.get(id)
            if entry is not None and entry.stop is None:
                entry.stop = request
        concerned = [entry for id in requests if (entry := _runs.get(id)) is not None]
        here = [entry for run in runs if (entry := _runs.get(run)) is not None]
    for entry in concerned:
        entry.tell()
    for entry in here:
        entry.meet(requests[entry.id])
    return {entry.id for entry in here}


def add_waker(waker: Callable[[], None]) -> None:
    """Register a worker of this process: ``waker()`` is called when there may be work."""
    with _lock:
        _wakers.append(waker)


def remove_waker(waker: Callable[[], None]) -> None:
    with _lock:
        if waker in _wakers:
            _wakers.remove(waker)


def wake() -> bool:
    """Tell this process's workers that a run was queued; return whether there is one."""
    for waker in list(_wakers):
        waker()
    return bool(_wakers)


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
