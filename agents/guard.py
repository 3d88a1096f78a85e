"""The one guard: check, note the call as in flight, call, trace.

Every tool goes through it; no tool reads the token by itself. A Guard belongs to one run and
carries that run's token and trace, so a call is guarded even from a thread or a task that lost its
context on the way.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, Token
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, Self, TypeVar

from .cancellation import CancelToken, StopMode, cleanup_in, has_cleanup, is_in_cleanup
from .exceptions import AgentStopped, CallTimedOut, RunIsOver
from .trace import Trace
from .values import jsonable
from .values.addresses import PUBLIC, Reach

__all__ = ["Call", "Guard", "WorkKind", "current_call", "current_guard", "wait_out"]

T = TypeVar("T")
WorkKind = Literal["thread", "task", "process"]

WORK_KINDS: tuple[WorkKind, ...] = ("thread", "task", "process")

#: How long after an abort the code between two calls may take to observe it; then it is cancelled.
COMPUTING_SECONDS = 2.0
PROTECTED_SECONDS = 0.1  # how often it asks whether a call or a cleanup() is over
#: How long no other call may be in flight before a graceful stop cuts a stream without an end. It
#: may be read by a task that takes its task group along, as in a client of MCP: the code that
#: waits for a call there gets its answer first.
QUIET_SECONDS = 0.1


class Guard:
    """Checks and traces every call of one run's tools.

    Attributes:
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
        generators: those that have begun, for the module that closes them.
        has_cancelled_others: its log says that it tried to cancel tasks that are not its own.
        unwatched_threads, unwatched_processes: how many it has started that no code waits for.
        owner: stands for the run's owner where owners share something; None if there is but one.
        reach: what requests may reach besides public addresses.
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
        self.has_begun = False
        self.host_cancelled = False
        self.main: asyncio.Task[Any] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.parts: set[asyncio.Task[Any]] = set()
        self.closings: list[asyncio.Task[Any]] = []
        self.generators: dict[int, Any] = {}
        self.generators_limit = 0
        self.has_cancelled_others = False
        self.unwatched_threads = 0
        self.unwatched_processes = 0
        self._work: dict[str, WorkKind] = {}
        self._wakers: list[Callable[[], object]] = []
        self._quiet_wakers: list[Callable[[], object]] = []
        self._lock = threading.RLock()  # reentrant, for the reason that the token's is
        self._in_flight = 0
        self._endless = 0  # of these
        self._left_at = 0.0  # when a call has last left, on time.monotonic()'s clock
        self._closed = False
        self._is_over = False
        # With the loop that is to cut; None for what may be cut in any thread.
        self._cuts: dict[
            Callable[[], object], tuple[StopMode, asyncio.AbstractEventLoop | None]
        ] = {}
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
        if self._wakers:
            self.wake()

    def begin_work(self, kind: WorkKind, label: str) -> str:
        """Note code of the run that its end waits for; return its id. From any thread.

        It is in flight as calls are, but it is not guarded, and has no event.
        """
        work = self.trace.begin(kind, label, datetime.now(UTC))
        with self._lock:
            self._work[work] = kind
        return work

    def end_work(self, work: str) -> None:
        """Note that this code has left. From any thread; repeats do nothing."""
        with self._lock:
            if self._work.pop(work, None) is None:
                return
        self.trace.end(work)
        if self._wakers:
            self.wake()

    def has_work(self, kinds: Collection[WorkKind] = WORK_KINDS) -> bool:
        """Tell whether known work of these kinds is left."""
        with self._lock:
            return any(kind in kinds for kind in self._work.values())

    def count_unwatched(self, kind: WorkKind) -> None:
        """Count a thread or a process that the run has started, and that nothing waits for."""
        with self._lock:
            if kind == "thread":
                self.unwatched_threads += 1
            else:
                self.unwatched_processes += 1

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
        """Let ``until`` ask again; from any thread."""
        with self._lock:
            wakers = (*self._wakers, *self._quiet_wakers)
        for wake in wakers:
            wake()

    def close(self) -> None:
        """Refuse new calls from now on, except those of generators that are being closed."""
        with self._lock:
            self._closed = True

    def finish(self) -> None:
        """Refuse all new calls from now on."""
        with self._lock:
            self._closed = self._is_over = True

    async def settle(self) -> None:
        """Refuse new calls from now on, and wait until none is in flight any more."""
        self.close()
        await self.until(lambda: not self._in_flight)

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
        for cut, (rung, own_loop) in self._cuts.copy().items():
            if mode.rank < rung.rank:
                continue
            if own_loop is None:
                self._cut(cut)
                continue
            with suppress(RuntimeError):
                own_loop.call_soon_threadsafe(self._cut, cut, context=Context())

    def _cut(self, cut: Callable[[], object]) -> None:
        """Cut a call; during a graceful stop wait until it is alone. On the call's loop."""
        if cut not in self._cuts:
            return
        if self.token.mode is not StopMode.GRACEFUL or self.is_quiet():
            cut()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(QUIET_SECONDS, self._cut, cut, context=Context())

    def is_quiet(self) -> bool:
        """Tell whether only streams without an end have been in flight for a moment of the stop."""
        stopped_at = self.token.acknowledged_monotonic
        with self._lock:
            if stopped_at is None or self._in_flight > self._endless:
                return False
            return time.monotonic() >= max(stopped_at, self._left_at) + QUIET_SECONDS

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

    def _enter(self) -> None:
        with self._lock:
            if self._is_over or (self._closed and not _speaks_last.get()):
                raise RunIsOver("this run is over; its tools can't be used any more")
            self._in_flight += 1

    def _leave(self) -> None:
        with self._lock:
            self._in_flight -= 1
            self._left_at = time.monotonic()
        if self._wakers:
            self.wake()


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
        guard._enter()
        try:
            self._started = guard.token.admit(self.tool, self.label, in_cleanup=self._in_cleanup)
        except BaseException:
            guard._leave()
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
        with guard._lock:
            guard._in_flight += 1
        self._started = time.monotonic()
        self.started_at = datetime.now(UTC)
        if guard.token.stopped:
            self.data["cleanup"] = True
        self.id = guard.trace.begin(self.tool, self.label, self.started_at)
        return self

    def finish(self, error: BaseException | None = None) -> None:
        """End the call: write its event and take it out of the calls in flight."""
        guard = self._guard
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
            )
        finally:
            guard.trace.end(self.id)
            if not self.has_end:
                with guard._lock:
                    guard._endless -= 1
            guard._leave()

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
    ) -> T:
        """Await ``work``; an abort cuts it, and if the call has no end, so does a graceful stop.

        A TaskGroup answers a stop in one branch by cancelling the others, but their calls in flight
        must finish. ``record(result)`` is called before a cancellation that came meanwhile is
        passed on, so that the trace has what was paid for.

        A cancellation takes effect as usual when no stop was requested (an agent's own time
        limit), when a surrounding ``cleanup()`` is over, and when the process is going away.

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
            if not is_cancelled and (self.may_be_cut() or not (self.has_end or has_cleanup())):
                is_cancelled = True
                is_cut = self._guard._cuts[cut][0] is not StopMode.ABANDON and self._is_aborted()
                task.cancel()  # once: a second one makes httpx lose connections of its pool

        def time_out() -> None:
            nonlocal is_cancelled, is_late
            if not is_cancelled and not task.done():
                is_cancelled = is_late = True
                task.cancel()

        self._add_cut(cut, StopMode.ABORT if self.has_end else StopMode.GRACEFUL)
        timer = self._at_its_limit(time_out)
        try:
            interruption = await wait_out(task, on_cancel)
        finally:
            del self._guard._cuts[cut]
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

    async def until_cut(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which is only a wait: any cancellation ends it, and so does an abort.

        Raises:
            AgentStopped: a stop has cut it.
        """
        task = self._guard.create_task(work)
        is_cut = False

        def cut() -> None:
            nonlocal is_cut
            is_cut = not task.done()
            task.cancel()

        self._add_cut(cut, StopMode.ABORT)
        try:
            return await task
        except asyncio.CancelledError:
            if is_cut:
                self.refuse()
            raise
        finally:
            del self._guard._cuts[cut]

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

        self._add_cut(cut_once, StopMode.ABORT)
        try:
            yield
        except Exception:
            if was_cut:
                self.refuse()
            raise
        finally:
            del self._guard._cuts[cut_once]

    async def wait_out(
        self, task: asyncio.Future[Any], on_cancel: Callable[[], object]
    ) -> asyncio.CancelledError | None:
        """Wait as the function of this name; but an abort ends the wait, and leaves the task be."""
        over = asyncio.get_running_loop().create_future()

        def end(_: object = None) -> None:
            if not over.done():
                over.set_result(None)

        task.add_done_callback(end)
        self._add_cut(end, StopMode.ABORT)
        try:
            interruption = await wait_out(over, on_cancel)
        finally:
            del self._guard._cuts[end]
            task.remove_done_callback(end)
        if interruption is not None:
            _retrieve(task)
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
            with guard._lock:
                guard.calls_cut += 1
        guard.token.refuse(self.tool, self.label)

    def _add_cut(self, cut: Callable[[], object], rung: StopMode) -> None:
        """Let a stop of this rung, or a harder one, call ``cut``: on this loop, if there is one.

        An abort shortens no ``cleanup()``, and cuts nothing that must be finished.
        """
        guard = self._guard
        if has_cleanup() or not self._is_cuttable:
            rung = StopMode.ABANDON
        guard._cuts[cut] = (rung, asyncio._get_running_loop())
        mode = guard.token.mode
        if mode is not None and mode.rank >= rung.rank:  # it came before
            guard._cut(cut)

    def note_endless(self) -> None:
        """Say that the call has no end of its own: a graceful stop does not wait for it."""
        with self._guard._lock:
            self.has_end = False
            self._guard._endless += 1

    def is_quiet(self) -> bool:
        """See ``Guard.is_quiet``."""
        return self._guard.is_quiet()

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
_speaks_last: ContextVar[bool] = ContextVar("agents_speaks_last", default=False)


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


def speak_last() -> None:
    """Let this context use the tools of a run that is being closed. Only the runtime does this."""
    _speaks_last.set(True)


async def wait_out(
    task: asyncio.Future[Any], on_cancel: Callable[[], object] = lambda: None
) -> asyncio.CancelledError | None:
    """Wait until a task or future is done, through cancellations; return the last of them.

    Each cancellation calls ``on_cancel``.
    """
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interruption = error
            on_cancel()
    if interruption is not None:
        _retrieve(task)
    return interruption


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging a task's error: a cancellation goes first."""
    if task.done() and not task.cancelled():
        task.exception()
