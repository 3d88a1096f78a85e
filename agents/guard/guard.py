"""The one guard: check, note the call as in flight, call, trace.

Every tool goes through it; no tool reads the token by itself. A Guard belongs to one run and
carries that run's token and trace, so a call is guarded even from a thread or a task that lost its
context on the way.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, Token
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, Self, TypeVar

from agents.cancellation import CancelToken, StopMode, cleanup_in, has_cleanup, is_in_cleanup
from agents.exceptions import AgentStopped, CallTimedOut
from agents.trace import Trace, Usage
from agents.values import jsonable
from agents.values.addresses import PUBLIC, Reach

from .cuts import Cuts
from .in_flight import InFlight
from .waiting import retrieve, wait_out

__all__ = [
    "Call",
    "Guard",
    "Unwatched",
    "bind_guard",
    "current_call",
    "current_guard",
    "guard_in",
]

T = TypeVar("T")

Unwatched = Literal["thread", "process", "connection"]

#: How long after an abort the code between two calls may take to observe it; then it is cancelled.
COMPUTING_SECONDS = 2.0
PROTECTED_SECONDS = 0.1  # how often it asks whether a call or a cleanup() is over


class Guard:
    """Checks and traces every call of one run's tools.

    Attributes:
        in_flight: what the run's end waits for.
        cuts: what a stop cuts.
        calls_started_after_acknowledgement: calls that were let through although they started
            after the token was tripped, except inside ``cleanup()``. Measured by the clock: it is 0
            or there is a bug.
        calls_cut: calls in flight that an abort has cut.
        call_seconds: how long a call may take, None for no limit; the host sets it.
        has_begun: the agent's code was called.
        host_cancelled: the process is going away: calls in flight may be cut now.
        main: the task in which the code of an ``async def`` agent runs, as long as it does.
        tasks: those that the agent has made, and that are not done.
        parts: the tasks that its calls in flight consist of.
        closings: the tasks that close its generators.
        callers: the timers and servers that it has made, for the module that ends them.
        generators: those that have begun, for the module that closes them.
        has_cancelled_others: its log says that it tried to cancel tasks that are not its own.
        unwatched_threads, unwatched_processes: how many it has started that no code waits for.
        unwatched_connections: how many it has made that no guard saw.
        owner: stands for the run's owner where owners share something; None if there is but one.
        reach: what requests may reach besides public addresses.
        traceparent_for: the host's: returns the header ``traceparent`` of a request to a host, None
            for none.
    """

    def __init__(
        self,
        token: CancelToken,
        trace: Trace,
        *,
        owner: Hashable = None,
        reach: Reach = PUBLIC,
    ) -> None:
        self.token = token
        self.trace = trace
        self.owner = owner
        self.reach = reach
        self.calls_started_after_acknowledgement = 0
        self.calls_cut = 0
        self.call_seconds: float | None = None
        self.traceparent_for: Callable[[str], str | None] | None = None
        self.has_begun = False
        self.host_cancelled = False
        self.main: asyncio.Task[Any] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.parts: set[asyncio.Task[Any]] = set()
        self.closings: list[asyncio.Task[Any]] = []
        self.callers: weakref.WeakSet[Any] | None = None  # few runs have any
        self.generators: dict[int, Any] = {}
        self.generators_limit = 0
        self.has_cancelled_others = False
        self.unwatched_threads = 0
        self.unwatched_processes = 0
        self.unwatched_connections = 0
        self._lock = threading.RLock()  # reentrant, for the reason that the token's is
        self.in_flight = InFlight(trace)
        self.cuts = Cuts(token, self.in_flight)
        token.add_observer(self._on_observed)
        token.add_callback(self._on_request)

    def call(
        self,
        tool: str,
        label: str = "",
        *,
        in_cleanup: bool = True,
        is_cuttable: bool = True,
        **data: Any,
    ) -> Call:
        """Guard one call: ``with guard.call("http", "GET example.org", method="GET") as call:``.

        Entering refuses or admits; leaving writes the call's one event. ``data`` and whatever is
        added to ``call.data`` meanwhile go into the event. An abort cuts the call unless
        ``is_cuttable`` is False: what writes to a database is finished.
        """
        return Call(self, tool, label, in_cleanup, is_cuttable, data)

    def check(self, tool: str = "", label: str = "") -> None:
        """Refuse if a stop was requested, without making a call of its own.

        For what happens inside a call that is guarded already, such as the next try of a request.

        Raises:
            AgentStopped: a stop was requested.
        """
        self.token.admit(tool, label)

    def create_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Make a task that is a part of the code that waits for it, and no task of the agent's.

        The run's end cancels the agent's tasks, but not this one: the task that waits for it
        decides.
        """
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.discard(task)
        self.parts.add(task)
        task.add_done_callback(self.parts.discard)
        return task

    def forget_task(self, task: asyncio.Task[Any]) -> None:
        """Take out a task of the agent's that is done."""
        self.tasks.discard(task)
        self.in_flight.wake_after_end()

    def count_unwatched(self, kind: Unwatched) -> None:
        """Count what the run has started, and nothing waits for, or what no guard saw."""
        with self._lock:
            if kind == "thread":
                self.unwatched_threads += 1
            elif kind == "process":
                self.unwatched_processes += 1
            else:
                self.unwatched_connections += 1

    def count_cut(self) -> None:
        """Count a call in flight that an abort has cut."""
        with self._lock:
            self.calls_cut += 1

    def close(self) -> None:
        """Refuse new calls from now on, except those of generators that are being closed."""
        self.in_flight.close()

    def finish(self) -> None:
        """Refuse all new calls from now on."""
        self.in_flight.finish()

    async def settle(self) -> None:
        """Refuse new calls from now on, and wait until none is in flight any more."""
        self.in_flight.close()
        await self.in_flight.until(lambda: not self.in_flight.has_calls)

    def _on_observed(self, tool: str, label: str) -> None:
        self.trace.emit("stop_observed", {"tool": tool, "label": label})

    def _on_request(self, token: CancelToken) -> None:
        """Cut what this rung cuts. In whichever thread asks for the stop."""
        mode = token.mode
        assert mode is not None
        if mode is StopMode.ABANDON:  # the record is final: nothing may follow
            self.finish()
            self.trace.close()
        main = self.main
        if mode is not StopMode.GRACEFUL and main is not None:
            loop = main.get_loop()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(
                    loop.call_later, COMPUTING_SECONDS, self._cut_code, context=Context()
                )
        self.cuts.make(mode)

    def _cut_code(self) -> None:
        """Cancel the code between two calls if it has not observed an abort by now; once."""
        if self.main is None or self.token.observed_at is not None:
            return
        tasks = [task for task in (self.main, *self.tasks) if not task.done()]
        if any(map(_is_protected, tasks)):  # one of the others may wait for it
            self.main.get_loop().call_later(PROTECTED_SECONDS, self._cut_code)
            return
        self.token.observe("abort")
        for task in tasks:
            task.cancel()


@dataclass(eq=False)
class Call:
    """One guarded call, from admission to its event. Made by ``Guard.call``.

    Attributes:
        id: the call's id, in its event, in what is in flight, and in streamed text.
        data: what the event will say; the tool adds to it.
        was_tried: the transport was given a request of this call.
        is_sent: a request of this call has left, perhaps in part; None if that is unknown. The
            transport notes both.
        has_end: False if it is a stream that goes on for ever; ``note_endless`` says so.
        usage: what it has used of a model, which counts together with its event.
        at_end: completes the event just before it is written: gets the error that has ended the
            call, and returns the one that the event is to say. It must not raise.
    """

    _guard: Guard
    tool: str
    label: str
    _in_cleanup: bool
    _is_cuttable: bool
    data: dict[str, Any]
    id: str = ""
    was_tried: bool = False
    is_sent: bool | None = None
    has_end: bool = True
    usage: Usage | None = None
    at_end: Callable[[BaseException | None], BaseException | None] | None = None
    _limit: float | None = None  # seconds; of the run when the call began
    _completed: bool = False
    _was_cut: bool = False

    def start(self) -> Self:
        """Ask to be admitted; from then on the call is in flight.

        Raises:
            AgentStopped: a stop was requested.
            RunIsOver: the agent has returned.
        """
        guard = self._guard
        guard.in_flight.enter()
        try:
            self._started = guard.token.admit(self.tool, self.label, in_cleanup=self._in_cleanup)
        except BaseException:
            guard.in_flight.leave()
            raise
        self.started_at = datetime.now(UTC)
        acknowledged = guard.token.acknowledged_monotonic
        if acknowledged is not None and self._started > acknowledged:
            if self._in_cleanup and has_cleanup():  # not is_in_cleanup(): it may just have ended
                self.data["cleanup"] = True
            else:
                guard.calls_started_after_acknowledgement += 1
        guard.trace.alive_at = self._started
        self._limit = guard.call_seconds
        self.id = guard.trace.begin(self.tool, self.label, self.started_at)
        return self

    def start_unasked(self) -> Self:
        """Be in flight without being admitted: the runtime waits, the agent's code has returned."""
        guard = self._guard
        guard.in_flight.enter_unasked()
        self._started = time.monotonic()
        self.started_at = datetime.now(UTC)
        if guard.token.stopped:
            self.data["cleanup"] = True
        self.id = guard.trace.begin(self.tool, self.label, self.started_at)
        return self

    def finish(self, error: BaseException | None = None) -> None:
        """End the call: write its event and take it out of the calls in flight."""
        guard = self._guard
        if self.at_end is not None:
            error = self.at_end(error)
        outcome = "ok" if self._completed else "aborted" if self._was_cut else _outcome(error)
        if self.is_sent is False and (
            outcome in ("stopped", "aborted") or isinstance(error, CallTimedOut)
        ):
            self.data["sent"] = False
        if outcome == "error":
            assert error is not None
            self.data["error"] = {
                "type": type(error).__name__,
                "message": jsonable.error_text(error, 50_000),  # the trace redacts, then cuts
            }
        guard.trace.alive_at = now = time.monotonic()
        try:
            guard.trace.emit(
                _event_type(self.tool),
                {
                    "call": self.id,
                    "tool": self.tool,
                    "label": self.label,
                    "started_at": self.started_at.isoformat(),
                    "duration_ms": round((now - self._started) * 1000, 3),
                    "outcome": outcome,
                    **self.data,
                },
                usage=self.usage,
            )
        finally:
            guard.trace.end(self.id)
            guard.in_flight.leave(is_endless=not self.has_end)

    def __enter__(self) -> Self:
        self.start()
        self._reset = _call.set(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _call.reset(self._reset)
        self.finish(error)

    async def uninterrupted(
        self,
        work: Coroutine[Any, Any, T],
        record: Callable[[T], None] | None = None,
        *,
        is_wait: bool = False,
    ) -> T:
        """Await ``work``; an abort cuts it, and if the call has no end, so does a graceful stop.

        A TaskGroup answers a stop in one branch by cancelling the others, but their calls in flight
        must finish. ``record(result)`` is called before a cancellation that came meanwhile is
        passed on, so that the trace has what was paid for.

        A cancellation takes effect as usual when no stop was requested (an agent's own time
        limit), when a surrounding ``cleanup()`` is over, and when the process is going away. If
        ``work`` ``is_wait``, and does nothing that must be finished, it always does.

        Raises:
            AgentStopped: a stop has cut it. Work that was complete by then counts.
            CallTimedOut: the call took longer than the run's ``call_seconds``.
        """
        task = self._guard.create_task(work)
        is_cancelled = is_cut = is_late = False

        def cut() -> None:
            nonlocal is_cancelled, is_cut
            if not is_cancelled and not task.done():
                is_cancelled = is_cut = True
                task.cancel()

        def on_cancel() -> None:
            nonlocal is_cancelled, is_cut
            may_be_cut = is_wait or self.may_be_cut() or not (self.has_end or has_cleanup())
            if may_be_cut and not is_cancelled:
                is_cancelled = True
                is_cut = rung is not StopMode.ABANDON and self._is_aborted()
                task.cancel()  # once: a second one makes httpx lose connections of its pool

        def time_out() -> None:
            nonlocal is_cancelled, is_late
            if not is_cancelled and not task.done():
                is_cancelled = is_late = True
                task.cancel()

        rung = self._rung()
        cuts = self._guard.cuts
        cuts.add(cut, rung, asyncio.get_running_loop())
        timer = self._at_its_limit(time_out)
        try:
            interruption = await wait_out(task, on_cancel)
        finally:
            cuts.remove(cut)
            if timer is not None:
                timer.cancel()
        has_failed = task.cancelled() or task.exception() is not None
        if is_cut and has_failed:
            self.refuse()
        if interruption is not None and has_failed:
            raise interruption
        if is_late and has_failed:
            raise self._timed_out()
        result = task.result()
        if record is not None:
            record(result)
        if interruption is not None:
            self._completed = True
            raise interruption
        return result

    @contextmanager
    def cut_in_thread(self, cut: Callable[[], object]) -> Iterator[None]:
        """Let an abort call ``cut``, in any thread, so that a wait of this thread fails.

        Raises:
            AgentStopped: the block has failed after that.
        """
        was_cut = False

        def cut_once() -> None:
            nonlocal was_cut
            was_cut = True
            cut()

        # In whichever thread asks: this one may be the loop's, and wait for the socket.
        self._guard.cuts.add(cut_once, self._rung(), None)
        try:
            yield
        except Exception:
            if was_cut:
                self.refuse()
            raise
        finally:
            self._guard.cuts.remove(cut_once)

    async def wait_for(
        self, task: asyncio.Future[Any], on_cancel: Callable[[], object]
    ) -> asyncio.CancelledError | None:
        """Wait as ``wait_out``; but an abort ends the wait, and leaves the task be."""
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def end(_: object = None) -> None:
            if not over.done():
                over.set_result(None)

        task.add_done_callback(end)
        self._guard.cuts.add(end, self._rung(), loop)
        try:
            interruption = await wait_out(over, on_cancel)
        finally:
            self._guard.cuts.remove(end)
            task.remove_done_callback(end)
        if interruption is not None:
            retrieve(task)
        return interruption

    def _is_aborted(self) -> bool:
        guard = self._guard
        return guard.token.mode is StopMode.ABORT and not guard.host_cancelled

    def refuse(self) -> NoReturn:
        """End the call because of a stop that came while it was in flight.

        Raises:
            AgentStopped: always.
        """
        guard = self._guard
        if guard.token.mode is not StopMode.GRACEFUL and not self._was_cut:
            self._was_cut = True
            guard.count_cut()
        guard.token.refuse(self.tool, self.label)

    def _rung(self) -> StopMode:
        """Return the mildest stop that cuts the call.

        An abort shortens no ``cleanup()``, and cuts nothing that must be finished.
        """
        if has_cleanup() or not self._is_cuttable:
            return StopMode.ABANDON
        return StopMode.ABORT if self.has_end else StopMode.GRACEFUL

    def note_endless(self) -> None:
        """Say that the call has no end of its own: a graceful stop does not wait for it."""
        self.has_end = False
        self._guard.in_flight.note_endless()

    def is_quiet(self) -> bool:
        """Tell whether only calls without an end have been in flight for a moment of the stop."""
        guard = self._guard
        return guard.in_flight.is_quiet(guard.token.acknowledged_monotonic)

    @property
    def _seconds_left(self) -> float | None:
        """How much longer the call may take; None for no limit."""
        if self._limit is None or not self._is_cuttable or self.tool.startswith(_UNTIMED):
            return None
        return self._started + self._limit - time.monotonic()

    def _at_its_limit(self, act: Callable[[], object]) -> asyncio.TimerHandle | None:
        left = self._seconds_left
        return None if left is None else asyncio.get_running_loop().call_later(max(left, 0.0), act)

    def _timed_out(self) -> CallTimedOut:
        return CallTimedOut(f"{self.tool} took more than {self._limit:g} s: {self.label}")

    def check_time(self) -> None:
        """Refuse to continue a call that has taken too long: for work that can't be cut.

        Raises:
            CallTimedOut: it has.
        """
        left = self._seconds_left
        if left is not None and left <= 0:
            raise self._timed_out()

    def mark_incomplete(self) -> None:
        """Take back that the work completed: only a part of it did."""
        self._completed = False

    @property
    def guard(self) -> Guard:
        """The guard of the run whose call this is."""
        return self._guard

    @property
    def token(self) -> CancelToken:
        """The token of the run whose call this is."""
        return self._guard.token

    def may_be_cut(self) -> bool:
        """Tell whether a cancellation that comes now may cut the work."""
        guard = self._guard
        token = guard.token
        if guard.host_cancelled or not token.stopped:
            return True
        if has_cleanup():
            # While it is open, this is not its end: a sibling has observed the stop, or has ended
            # its own cleanup. This one still saves what it has.
            return not is_in_cleanup()
        if token.mode is StopMode.ABORT:
            return self._is_cuttable
        return token.mode is StopMode.ABANDON


#: Calls that ``call_seconds`` does not limit: a sub-agent has limits of its own.
_UNTIMED = "agents."
_EVENT_TYPES = {"call_llm": "llm_call", "agents": "agent_call"}


def _event_type(tool: str) -> str:
    kind = tool.partition(".")[0]
    return _EVENT_TYPES.get(kind, kind)


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "ok"
        case AgentStopped():
            return "stopped"
        case asyncio.CancelledError() | GeneratorExit():
            return "aborted"
        case _:
            return "error"


def _is_protected(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task of an agent is in a guarded call, or in an open ``cleanup()``."""
    context = getattr(task, "run_context", None)
    if context is None:
        return False
    surrounding = cleanup_in(context)
    return context.get(_call) is not None or (surrounding is not None and surrounding.is_open)


_guard: ContextVar[Guard | None] = ContextVar("agents_guard", default=None)
_call: ContextVar[Call | None] = ContextVar("agents_call", default=None)


def current_guard() -> Guard | None:
    """Return the guard of the run that this code belongs to, None outside any run."""
    return _guard.get()


def guard_in(context: Context) -> Guard | None:
    """Return the guard that ``context`` has, None outside any run."""
    return context.get(_guard)


def current_call() -> Call | None:
    """Return the guarded call that this code is part of, None outside any."""
    return _call.get()


def bind_guard(guard: Guard) -> Token[Guard | None]:
    """Make ``guard`` the ambient one of this context. Only the runtime does this."""
    _call.set(None)  # a called agent is not part of its caller's call
    return _guard.set(guard)
