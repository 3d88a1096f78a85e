"""What of a run is in flight: its guarded calls, and other code that its end waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from typing import Literal

from agents.exceptions import RunIsOver
from agents.trace import Trace

__all__ = ["QUIET_SECONDS", "WORK_KINDS", "InFlight", "WorkKind", "speak_last"]

WorkKind = Literal["thread", "task", "process"]

WORK_KINDS: tuple[WorkKind, ...] = ("thread", "task", "process")

#: How long no other call may be in flight before a graceful stop cuts a stream without an end. It
#: may be read by a task that takes its task group along, as in a client of MCP: the code that
#: waits for a call there gets its answer first.
QUIET_SECONDS = 0.1


class InFlight:
    """Counts a run's calls, knows its known work, and wakes those that wait for their end.

    Known work is code that is not guarded, and has no event, but is in flight as calls are. All
    methods are for any thread.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._lock = threading.RLock()  # reentrant, for the reason that the token's is
        self._calls = 0
        self._endless = 0  # of these
        self._left_at = 0.0  # when a call has last left, on time.monotonic()'s clock
        self._work: dict[str, WorkKind] = {}
        self._wakers: list[Callable[[], object]] = []
        self._quiet_wakers: list[Callable[[], object]] = []
        self._is_closed = False
        self._is_over = False

    @property
    def has_calls(self) -> bool:
        return self._calls > 0

    def enter(self) -> None:
        """Count a call that begins.

        Raises:
            RunIsOver: no more calls are let in.
        """
        with self._lock:
            if self._is_over or (self._is_closed and not _speaks_last.get()):
                raise RunIsOver("this run is over; its tools can't be used any more")
            self._calls += 1

    def enter_unasked(self) -> None:
        """Count a call of the runtime's own, which begins in any case."""
        with self._lock:
            self._calls += 1

    def leave(self, *, is_endless: bool = False) -> None:
        """Count a call that ends; ``is_endless`` if ``note_endless`` was called for it."""
        with self._lock:
            self._calls -= 1
            self._endless -= is_endless
            self._left_at = time.monotonic()
        self.wake_after_end()

    def note_endless(self) -> None:
        """Note that a call in flight is a stream without an end of its own."""
        with self._lock:
            self._endless += 1

    def is_quiet(self, stopped_at: float | None) -> bool:
        """Tell whether only streams without an end have been in flight for a moment.

        The moment begins with the stop, at ``stopped_at`` on time.monotonic()'s clock.
        """
        with self._lock:
            if stopped_at is None or self._calls > self._endless:
                return False
            return time.monotonic() >= max(stopped_at, self._left_at) + QUIET_SECONDS

    def begin_work(self, kind: WorkKind, label: str) -> str:
        """Note code of the run that its end waits for; return its id."""
        work = self._trace.begin(kind, label, datetime.now(UTC))
        with self._lock:
            self._work[work] = kind
        return work

    def end_work(self, work: str) -> None:
        """Note that this code has left; repeats do nothing."""
        with self._lock:
            if self._work.pop(work, None) is None:
                return
        self._trace.end(work)
        self.wake_after_end()

    def has_work(self, kinds: Collection[WorkKind] = WORK_KINDS) -> bool:
        """Tell whether known work of these kinds is left."""
        with self._lock:
            return any(kind in kinds for kind in self._work.values())

    async def until(self, is_over: Callable[[], bool], *, is_quiet: bool = False) -> None:
        """Wait until ``is_over()``.

        It is asked again at ``wake()``; unless this ``is_quiet``, also when known work, a task or a
        call of the run ends.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set, context=Context())

        wakers = self._quiet_wakers if is_quiet else self._wakers
        with self._lock:
            wakers.append(wake)
        try:
            while not is_over():
                await changed.wait()
                changed.clear()
        finally:
            with self._lock:
                wakers.remove(wake)

    def wake(self) -> None:
        """Let ``until`` ask again."""
        with self._lock:
            wakers = (*self._wakers, *self._quiet_wakers)
        for wake in wakers:
            wake()

    def wake_after_end(self) -> None:
        """Let ``until`` ask again, because something of the run has ended."""
        if self._wakers:
            self.wake()

    def close(self) -> None:
        """Let no calls in from now on, except those of generators that are being closed."""
        with self._lock:
            self._is_closed = True

    def finish(self) -> None:
        """Let no calls in from now on."""
        with self._lock:
            self._is_closed = self._is_over = True


_speaks_last: ContextVar[bool] = ContextVar("agents_speaks_last", default=False)


def speak_last() -> None:
    """Let this context use the tools of a run that is being closed. Only the runtime does this."""
    _speaks_last.set(True)
