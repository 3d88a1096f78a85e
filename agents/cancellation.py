"""The cancel token, and what an agent's code asks of it.

The token says that a stop was requested; it never interrupts anything. Code finds out at the guard
of a tool, or by ``should_stop()``. This module must not know tools, traces or runs, and needs
nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, Token
from datetime import UTC, datetime
from typing import Any, NoReturn, Self

from .exceptions import AgentStopped

__all__ = [
    "DEADLINE_REACHED",
    "IDLE",
    "CancelToken",
    "Lease",
    "StopCause",
    "StopMode",
    "check_should_stop",
    "cleanup",
    "current_token",
    "should_stop",
]

logger = logging.getLogger(__name__)


class StopMode(enum.StrEnum):
    """How hard a stop is; a stop only ever escalates to a later one."""

    GRACEFUL = "graceful"
    ABORT = "abort"
    ABANDON = "abandon"

    @property
    def rank(self) -> int:
        return list(StopMode).index(self)


class StopCause(enum.StrEnum):
    """Why a token was tripped. A request outranks a shutdown: only it ends a run as ``stopped``."""

    SHUTDOWN = "shutdown"
    REQUEST = "request"


class Lease:
    """Until when tokens admit calls, without asking the database.

    A host that others may declare lost shares one lease among its tokens and extends it. Once over
    it stays over: other hosts may have taken the runs.

    Attributes:
        until: on ``time.monotonic()``'s clock, which runs while the process is frozen.
    """

    def __init__(self, until: float = float("inf")) -> None:
        self.until = until
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def extend(self, until: float) -> bool:
        """Extend it, unless it is over; return whether that worked."""
        with self._lock:
            if self.is_over:
                return False
            self.until = until
            return True

    def end(self) -> None:
        """End it now."""
        with self._lock:
            self.until = float("-inf")


_NO_END = Lease()

# Reasons of stops that no person asked for.
DEADLINE_REACHED = "the deadline was reached"
IDLE = "it showed no sign of life for too long"


class CancelToken:
    """Carries a stop down a tree of agents.

    Reading ``stopped`` costs an attribute read. All tokens of one tree share one lock, so a
    request marks the whole subtree at one instant, and a call is admitted or refused at one
    instant: never in between.

    Attributes:
        stopped: whether a stop was requested. Changes from False to True, once.
        lease: until when calls are admitted; a child's is its parent's.
        deadline: the same on ``time.monotonic()``'s clock, for this run alone; the host sets it.
            From then on the token admits nothing, also if the process was frozen meanwhile and no
            other code could trip it.
        mode, reason, cause: of the request; only ``mode`` and ``cause`` may still escalate.
        acknowledged_at: when the token was tripped (aware, UTC).
        acknowledged_monotonic: the same instant on ``time.monotonic()``'s clock.
        observed_at: when the code observed the stop: a guard refused, or ``should_stop()`` said
            True.
    """

    def __init__(self, parent: CancelToken | None = None, *, lease: Lease = _NO_END) -> None:
        self.parent = parent
        self.lease: Lease = lease if parent is None else parent.lease
        self.deadline: float = float("inf") if parent is None else parent.deadline
        self._has_reached_deadline = False
        self.stopped = False
        self.mode: StopMode | None = None
        self.cause: StopCause | None = None
        self.reason = ""
        self.acknowledged_at: datetime | None = None
        self.acknowledged_monotonic: float | None = None
        self.observed_at: datetime | None = None
        self._callbacks: list[Callable[[CancelToken], None]] = []
        self._observers: list[Callable[[str, str], object]] = []
        self._cleanup_from: float | None = None  # of this run alone, on time.monotonic()'s clock
        self._children: weakref.WeakSet[CancelToken] | None = None
        if parent is None:
            # Reentrant: the garbage collector may end a suspended coroutine of an agent's, and with
            # it a cleanup() or a guarded call, while this very thread holds the lock.
            self._lock = threading.RLock()
            return
        self._lock = parent._lock
        with self._lock:
            if parent._children is None:
                parent._children = weakref.WeakSet()
            parent._children.add(self)
            if parent.stopped:
                assert parent.mode is not None
                assert parent.cause is not None
                self._mark(parent.mode, parent.reason, parent.cause, datetime.now(UTC))

    def request(
        self,
        mode: StopMode | str = StopMode.GRACEFUL,
        reason: str = "",
        *,
        cause: StopCause = StopCause.REQUEST,
    ) -> bool:
        """Ask this token's whole subtree to stop; return whether that changed anything here.

        Thread-safe and idempotent. A repeat with a harder mode, or a stop request after a
        shutdown, escalates; anything else changes nothing. Callbacks run before this returns, in
        this thread, outside the lock.
        """
        mode = StopMode(mode)
        with self._lock:
            changed: list[CancelToken] = []
            now = datetime.now(UTC)
            pending = [self]
            while pending:
                token = pending.pop()
                if token._mark(mode, reason, cause, now):
                    changed.append(token)
                if token._children is not None:
                    pending.extend(token._children)
            calls = [(t, callback) for t in changed for callback in tuple(t._callbacks)]
        for token, callback in calls:
            _call(callback, token)
        return self in changed

    def _mark(self, mode: StopMode, reason: str, cause: StopCause, now: datetime) -> bool:
        if not self.stopped:
            self.mode, self.reason, self.cause = mode, reason, cause
            self.acknowledged_at = now
            self.acknowledged_monotonic = time.monotonic()
            self.stopped = True  # last: a reader that sees it set sees the rest, too
            return True
        assert self.mode is not None
        escalated = False
        if mode.rank > self.mode.rank:
            self.mode = mode
            escalated = True
        if cause is StopCause.REQUEST and self.cause is StopCause.SHUTDOWN:
            self.cause, self.reason = cause, reason
            escalated = True
        return escalated

    def add_callback(self, callback: Callable[[CancelToken], None]) -> None:
        """Call ``callback(token)`` at the request and at each escalation; at once if stopped.

        It is called in whichever thread asks for the stop, and must not block.
        """
        with self._lock:
            self._callbacks.append(callback)
            stopped = self.stopped
        if stopped:
            _call(callback, self)

    def remove_callback(self, callback: Callable[[CancelToken], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def add_observer(self, observer: Callable[[str, str], object]) -> None:
        """Call ``observer(tool, label)`` once, when the code first observes the stop."""
        with self._lock:
            self._observers.append(observer)

    def ancestors(self) -> Iterator[CancelToken]:
        """Give the tokens above this one, the nearest first."""
        token = self.parent
        while token is not None:
            yield token
            token = token.parent

    def observe(self, tool: str = "", label: str = "") -> None:
        """Note that the code has observed the stop; only the first time counts."""
        with self._lock:
            if self.observed_at is not None:
                return
            self.observed_at = datetime.now(UTC)
            observers = list(self._observers)
        for observer in observers:
            _call(observer, tool, label)

    def admit(self, tool: str = "", label: str = "", *, in_cleanup: bool = True) -> float:
        """Let one call start, or refuse it; return the instant, on ``time.monotonic()``'s clock.

        It holds the lock that ``request`` takes, so an admitted call always started before the stop
        was acknowledged. With ``in_cleanup`` False a surrounding ``cleanup()`` makes no difference.
        The first thread that finds the lease or the deadline over trips the token.

        Raises:
            AgentStopped: a stop was requested, or the deadline is over, and no ``cleanup()`` is
                open around the caller; or the lease is over.
        """
        with self._lock:
            was_stopped = self.stopped
            if not was_stopped or (in_cleanup and is_in_cleanup()):
                now = time.monotonic()
                if now < self.lease.until and (now < self.deadline or was_stopped):
                    return now
        if self.lease.is_over:
            self.lease.end()
            self.request(reason="the lease is over", cause=StopCause.SHUTDOWN)
        elif not was_stopped:
            self._reach_deadline()
            return self.admit(tool, label, in_cleanup=in_cleanup)  # a cleanup() goes on
        return self.refuse(tool, label)

    def _reach_deadline(self) -> None:
        """Trip the topmost token with this deadline: a called run stops with its caller."""
        top = self
        for above in self.ancestors():
            if above.deadline <= self.deadline:
                top = above
        top._has_reached_deadline = True
        top.request(reason=DEADLINE_REACHED)

    @property
    def has_reached_deadline(self) -> bool:
        """Whether a call was refused because of the deadline, here or where this token is below."""
        tokens = (self, *self.ancestors())
        return any(token._has_reached_deadline for token in tokens)

    @property
    def is_overdue(self) -> bool:
        """Whether the deadline is over."""
        return time.monotonic() >= self.deadline

    def refuse(self, tool: str = "", label: str = "") -> NoReturn:
        """Raise AgentStopped, and note that the stop was observed."""
        self.observe(tool, label)
        raise AgentStopped(self.reason or "a stop was requested")

    def _start_cleanup(self) -> float:
        """Return when the stop first met a ``cleanup()`` of this run; by default that is now."""
        with self._lock:
            if self._cleanup_from is None:
                self._cleanup_from = time.monotonic()
            return self._cleanup_from

    def __repr__(self) -> str:
        state = f"stopped, {self.mode}, {self.cause}" if self.stopped else "not stopped"
        return f"<CancelToken {state}>"


def _call(callback: Callable[..., object], *args: object) -> None:
    try:
        callback(*args)
    except Exception:
        logger.exception("a callback of a cancel token failed")


_NEVER = CancelToken()  # outside any run; it is never tripped
_token: ContextVar[CancelToken] = ContextVar("agents_cancel_token", default=_NEVER)


def current_token() -> CancelToken | None:
    """Return the token of the run that this code belongs to, None outside any run."""
    token = _token.get()
    return None if token is _NEVER else token


def bind_token(token: CancelToken) -> Token[CancelToken]:
    """Make ``token`` the ambient one of this context. Only the runtime does this."""
    return _token.set(token)


def should_stop() -> bool:
    """Tell whether this run was asked to stop; True counts as having observed the stop.

    Also inside ``cleanup()``. Outside any run: False.
    """
    token = _token.get()
    if not token.stopped:
        return False
    token.observe("should_stop")
    return True


def check_should_stop() -> None:
    """Raise AgentStopped if this run was asked to stop; inside ``cleanup()`` do nothing.

    Meant for loops that compute without calling a tool: it costs some 30 ns.

    Raises:
        AgentStopped: a stop was requested.
    """
    token = _token.get()
    if token.stopped and not is_in_cleanup():
        token.refuse("check_should_stop")


_cleanup: ContextVar[cleanup | None] = ContextVar("agents_cleanup", default=None)


def is_in_cleanup() -> bool:
    """Tell whether an open ``cleanup()`` surrounds this code."""
    current = _cleanup.get()
    return current is not None and current.is_open


def has_cleanup() -> bool:
    """Tell whether a ``cleanup()`` surrounds this code, be it still open or not."""
    return _cleanup.get() is not None


def cleanup_in(context: Context) -> cleanup | None:
    """Return the ``cleanup()`` that surrounds the code of ``context``, be it open or not."""
    return context.get(_cleanup)


def leave_cleanup() -> None:
    """Forget a surrounding ``cleanup()``: a called agent does not inherit its caller's."""
    _cleanup.set(None)


class cleanup:  # in lower case, since it is used like a function
    """Suspend the stop for ``seconds``, so that a ``finally`` block may save what it has.

    ``async with cleanup(seconds=5):`` in agents that are coroutines, ``with cleanup():`` in ``def``
    agents. The time runs from the stop, or from the run's first ``cleanup()`` after it if none was
    open then. All of a run share it: each ends ``seconds`` after that one instant, so a later one
    gives no more time unless it is longer. Without a stop there is no limit. When the time is over,
    guards refuse again, and in a coroutine the await in progress is cut as well; in a thread only
    the guards can refuse. ``abandon`` ends it at once. Inside another ``cleanup()`` the one that
    ends first counts. A called agent has a time of its own.

    Calling another agent is refused even inside: a stop lets no agent start.

    Raises:
        AgentStopped: at its end, when the time was over and it had to cut.
        ValueError: ``seconds`` is not a positive number.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"cleanup() needs a positive number of seconds, not {seconds!r}")
        self._seconds = seconds
        self._token = _token.get()
        self._entered = False
        self._deadline: float | None = None  # None as long as nothing was stopped
        self._outer: cleanup | None = None
        self._reset: Token[cleanup | None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout: asyncio.Timeout | None = None

    @property
    def is_open(self) -> bool:
        """Whether guards admit calls because of this one."""
        if self._reset is None or (self._outer is not None and not self._outer.is_open):
            return False
        if self._timeout is not None and self._timeout.expired():
            return False
        return self._deadline is None or time.monotonic() < self._deadline

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a cleanup() can't be entered twice; make a new one")
        self._entered = True
        self._outer = _cleanup.get()
        self._reset = _cleanup.set(self)
        self._token.add_callback(self._on_stop)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._token.remove_callback(self._on_stop)
        reset, self._reset = self._reset, None
        if reset is None:
            return
        try:
            _cleanup.reset(reset)
        except ValueError:  # an async generator that was closed by another task than its reader
            logger.debug("a cleanup() was left in another context than it was entered in")

    async def __aenter__(self) -> Self:
        if not self._entered:
            self._loop = asyncio.get_running_loop()
            self._timeout = asyncio.timeout(None)
            await self._timeout.__aenter__()
        return self.__enter__()

    async def __aexit__(self, *exc_info: Any) -> None:
        self.__exit__(*exc_info)
        assert self._timeout is not None
        timeout, self._timeout = self._timeout, None
        try:
            await timeout.__aexit__(*exc_info)
        except TimeoutError as error:
            raise AgentStopped(f"cleanup was cut after {self._seconds:g} s") from error

    def _on_stop(self, token: CancelToken) -> None:
        if token.mode is StopMode.ABANDON:
            self._deadline = time.monotonic()
        elif self._deadline is None:
            self._deadline = token._start_cleanup() + self._seconds
        if self._loop is not None:
            try:
                # In no run's context: a run can't cancel the tasks of others.
                self._loop.call_soon_threadsafe(self._arm, context=Context())
            except RuntimeError:  # the loop is closed, so nothing is left to cut
                logger.debug("no loop left to arm a cleanup limit on")

    def _arm(self) -> None:
        """Set the cut to the deadline; on the loop, where asyncio's Timeout lives."""
        if self._timeout is None or self._deadline is None or self._timeout.expired():
            return
        assert self._loop is not None
        left = max(0.0, self._deadline - time.monotonic())
        self._timeout.reschedule(self._loop.time() + left)
