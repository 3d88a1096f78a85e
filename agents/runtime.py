"""Run one agent's function under a guard, and say how it ended.

The runtime knows nothing of records, queues or processes. It binds the ambient token, trace and
guard, calls the function, and returns only when the agent's code has really ended: its calls in
flight, its sub-agents, and the tasks, threads and processes that it left running.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

from . import output
from .cancellation import StopCause, bind_token, leave_cleanup
from .environment import Environment
from .exceptions import AgentError, AgentStopped, InvalidOutput
from .guard import WORK_KINDS, Guard, WorkKind, bind_guard, current_guard, guard_in
from .process.callers import end_callers
from .process.generators import close_generators, watch_generators
from .process.labels import label_of
from .process.state import own_work
from .process.threads import agent_code
from .registry import AgentDefinition
from .tools import SyncTools, Tools
from .tools.agents.handle import forget_started, has_started, settle_started
from .tools.http.client import close_clients
from .trace import bind_trace
from .values import jsonable, redaction
from .wire import ErrorInfo

__all__ = ["AgentTask", "Outcome", "describe_error", "run_agent", "task_factory"]

logger = logging.getLogger(__name__)

SHOWN_SECONDS = 0.1  # after which a task that a run waits for is shown
LEFT_BEHIND_SECONDS = 5.0  # after which the tasks are cancelled that were made meanwhile
LEAVING_SECONDS = 2.0  # for what is left, twice, if the process is going away
MOST_SHOWN = 20  # tasks of a run
MAX_MESSAGE = 4_000  # characters
MAX_TRACEBACK = 20_000  # characters


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an agent's code has ended.

    Attributes:
        kind: ``stopped`` if a stop request was observed, whatever came out afterwards;
            ``interrupted`` if the process is going away and no stop was requested; otherwise
            ``success`` for a normal return and ``error`` for an exception.
        result: what was returned, JSON, if ``success``.
        partial_result: what was returned, JSON, if not ``success``.
        error: if ``error``.
        exception: what ``error`` describes, for the host's log. It keeps the agent's variables in
            memory, so a host lets go of it soon.
        cleanup_error: what came out of a stopped agent instead of ``AgentStopped``.
    """

    kind: Literal["success", "error", "stopped", "interrupted"]
    result: Any = None
    partial_result: Any = None
    error: ErrorInfo | None = None
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    cleanup_error: ErrorInfo | None = None


async def run_agent(
    definition: AgentDefinition, arguments: dict[str, Any], environment: Environment
) -> Outcome:
    """Call the agent's function and return how it ended; never raises.

    Await it in a task with a context of its own, on a loop with ``task_factory``. If the token is
    tripped already, the function is never called.
    """
    guard = environment.guard
    watch_generators()
    bind_token(guard.token)
    bind_trace(guard.trace)
    bind_guard(guard)
    leave_cleanup()
    value: Any = None
    error: BaseException | None = None
    guard.trace.emit("agent_start", {"title": definition.title})
    # After its first event: a watchdog may log about this task at any instant.
    task = cast(AgentTask, asyncio.current_task())
    task.guard = guard
    try:
        guard.token.admit("agent", definition.name, in_cleanup=False)
        guard.has_begun = True
        value = await _call(definition, arguments, environment)
    except BaseException as raised:  # SystemExit too: it must not end the loop of the others
        error = raised
    if task.cancelling() and not guard.host_cancelled:
        try:  # the agent's own, which none of its awaits has raised: it must not cut the wait below
            await asyncio.sleep(0)
        except asyncio.CancelledError as raised:
            error = error or raised
    try:
        await _settled(guard)
    except asyncio.CancelledError as raised:  # the host does not wait any longer
        error = error or raised
    except Exception:
        logger.exception("agent %s left tasks or calls that could not be ended", definition.name)
    output.flush(guard.trace)
    return _outcome(definition, guard, value, error)


async def _call(
    definition: AgentDefinition, arguments: dict[str, Any], environment: Environment
) -> Any:
    if definition.is_async:
        guard = environment.guard
        guard.main = asyncio.current_task()
        try:
            return await definition.function(Tools(environment), **arguments)
        finally:
            guard.main = None
    tools = SyncTools(environment, asyncio.get_running_loop())
    thread = _Thread(definition, environment.guard)
    return await thread.call(lambda: definition.function(tools, **arguments))


class _Thread:
    """The thread of a ``def`` agent.

    A daemon, so that a thread that never comes back can't keep the process from ending; a pool's
    threads are joined at exit, and could starve agents that call agents.
    """

    def __init__(self, definition: AgentDefinition, guard: Guard) -> None:
        self._agent = definition.name
        self._label = label_of(definition.function)
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._work = ""  # its id among the known work, once the run waits for it
        self._ended: tuple[Any, BaseException | None] | None = None

    async def call(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` in the thread, in a copy of this context."""
        guard = self._guard
        target = partial(self._main, contextvars.copy_context(), work)
        thread = threading.Thread(target=target, name=f"agent-{self._agent}", daemon=True)
        with own_work():
            thread.start()
        guard.token.add_callback(self._on_stop)
        try:
            await guard.in_flight.until(lambda: self._ended is not None, is_quiet=True)
        except asyncio.CancelledError:
            self._show()
            raise
        finally:
            guard.token.remove_callback(self._on_stop)
        assert self._ended is not None
        (value, error), self._ended = self._ended, (None, None)
        if error is not None:
            raise error
        return value

    def _main(self, context: contextvars.Context, work: Callable[[], Any]) -> None:
        def in_thread() -> Any:
            with agent_code():
                return work()

        value, error = None, None
        try:
            value = context.run(in_thread)
        except BaseException as raised:
            error = raised
        try:
            self._loop.call_soon_threadsafe(self._finish, value, error)
        except RuntimeError:
            logger.warning("agent %s came back after its loop was closed", self._agent)

    def _on_stop(self, _: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._show, context=contextvars.Context())

    # On the loop:

    def _show(self) -> None:
        if self._ended is None and not self._work:
            self._work = self._guard.in_flight.begin_work("thread", self._label)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        self._ended = (value, error)
        self._guard.in_flight.end_work(self._work)
        self._guard.in_flight.wake()


async def _settled(guard: Guard) -> None:
    """Wait until the run is settled.

    The run's own code can't cut it by cancelling the task that it was called in.

    Raises:
        asyncio.CancelledError: the process is going away.
    """
    settling = asyncio.get_running_loop().create_task(_settle(guard))
    guard.tasks.discard(settling)
    interruption: asyncio.CancelledError | None = None
    while not settling.done():
        try:
            await guard.in_flight.until(settling.done)
        except asyncio.CancelledError as raised:
            if guard.host_cancelled:
                interruption = raised
                settling.cancel()
    if interruption is not None:
        raise interruption
    settling.result()


async def _settle(guard: Guard) -> None:
    """Wait until nothing of the agent's is running any more.

    Tasks that it left are cancelled, as asyncio.run() does at its end. During a stop these may be
    branches of a gather() that have not observed it yet: as in a TaskGroup, their calls in flight
    finish first, and their ``finally`` blocks may still use ``cleanup()``.
    """
    if not guard.token.stopped:  # otherwise the token refuses
        guard.close()
    # At once: a thread that the run waits for may take long.
    started = guard.create_task(settle_started(guard)) if has_started(guard) else None
    try:
        await _end_code(guard)
        guard.close()
        if started is not None:
            await started
        await settle_started(guard)
        await close_clients(guard)  # what may be in flight now are responses that no code reads
        await guard.settle()
        await settle_started(guard)  # by a call that was in flight in a thread
        await close_clients(guard)
        await _end_code(guard)  # what these have begun
    finally:
        end_callers(guard)  # in the turn of the loop in which nothing else was left
        guard.finish()
        forget_started(guard)
        if started is not None:
            started.cancel()
        await _leave_behind(guard)


async def _end_code(guard: Guard) -> None:
    """Cancel the agent's tasks, close its generators, and wait for all its known work.

    If the process is going away it waits a while for tasks, and for no thread or process.
    """
    is_leaving = guard.host_cancelled
    kinds: tuple[WorkKind, ...] = ("task",) if is_leaving else WORK_KINDS
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVING_SECONDS if is_leaving else None):
            while True:
                await _end_tasks(guard)
                close_generators(guard)
                await guard.in_flight.until(lambda: not guard.in_flight.has_work(kinds))
                if not _left_behind(guard):
                    return


async def _end_tasks(guard: Guard) -> None:
    """Cancel the agent's tasks, each once, and wait for them."""
    _cancel_left_behind(guard)
    shown: set[asyncio.Task[Any]] = set()
    seconds = SHOWN_SECONDS
    while left := _left_behind(guard):
        try:
            async with asyncio.timeout(seconds):
                await guard.in_flight.until(lambda left=left: not left <= _left_behind(guard))  # type: ignore[misc]
        except TimeoutError:
            if seconds == LEFT_BEHIND_SECONDS and not guard.parts:
                _cancel_left_behind(guard)  # those that others made meanwhile
            for task in list(left - shown)[: MOST_SHOWN - len(shown)]:
                shown.add(task)
                work = guard.in_flight.begin_work("task", label_of(task.get_coro()))
                task.add_done_callback(lambda _, work=work: guard.in_flight.end_work(work))  # type: ignore[misc]
            seconds = LEFT_BEHIND_SECONDS


def _cancel_left_behind(guard: Guard) -> None:
    for task in _left_behind(guard):
        if not task.cancelling():
            task.cancel()


def _left_behind(guard: Guard) -> set[asyncio.Task[Any]]:
    return {task for task in list(guard.tasks) if not task.done()}


async def _leave_behind(guard: Guard) -> None:
    """Cancel what is left, and name it: the process is going away."""
    left = _left_behind(guard).union(guard.closings)
    for task in left:
        task.cancel()
    if left:
        _, left = await asyncio.wait(left, timeout=LEAVING_SECONDS)
    names = [f"a task running: {task.get_name()}, {label_of(task.get_coro())}" for task in left]
    names += [
        f"a {call['tool']} running: {call['label']}"
        for call in guard.trace.in_flight()
        if call["tool"] in ("thread", "process")
    ]
    for name in names:
        guard.trace.emit("log", {"level": "warning", "message": f"the agent left {name}"})


def _outcome(
    definition: AgentDefinition, guard: Guard, value: Any, error: BaseException | None
) -> Outcome:
    """Turn an ending into a kind of ending: the one place where this is decided."""
    token = guard.token
    essence = _essence(error)
    if token.stopped and isinstance(essence, AgentStopped):
        token.observe("raise")  # a stop that came by another way than a guard of this run
    observed = token.observed_at is not None
    if observed and token.cause is StopCause.REQUEST:
        return _unwound("stopped", guard, value, essence)
    if observed or (guard.host_cancelled and essence is not None):
        return _unwound("interrupted", guard, value, essence)
    if essence is None:
        try:
            return Outcome("success", result=definition.dump_output(value))
        except InvalidOutput as invalid:
            _emit_error(guard, invalid)
            partial = _whole(value)
            return Outcome("error", None, partial, describe_error(invalid), invalid)
    _emit_error(guard, essence)
    return Outcome("error", error=describe_error(essence), exception=essence)


def _unwound(
    kind: Literal["stopped", "interrupted"],
    guard: Guard,
    value: Any,
    essence: BaseException | None,
) -> Outcome:
    partial = None if value is None else _whole(value)
    if essence is None or isinstance(essence, AgentStopped | asyncio.CancelledError):
        return Outcome(kind, partial_result=partial)
    _emit_error(guard, essence)
    return Outcome(kind, partial_result=partial, cleanup_error=describe_error(essence))


def _whole(value: object) -> Any:
    """Return what an agent handed over as JSON, uncut, whatever its type."""
    return jsonable.clean(value, max_string=None, max_items=None)


def _essence(error: BaseException | None) -> BaseException | None:
    """Unwrap the groups that a TaskGroup makes; give what went wrong besides the stop itself."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    others = [leaf for leaf in leaves if not isinstance(leaf, AgentStopped)]
    if not others:
        return leaves[0]
    return others[0] if len(others) == 1 else error


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def describe_error(error: BaseException) -> ErrorInfo:
    """Return an exception as a record has it, without secrets."""
    if isinstance(error, AgentError):
        code = error.code
    elif isinstance(error, AgentStopped):
        code = "stopped_without_request"
    else:
        code = "unhandled_exception"
    message = redaction.redact(jsonable.error_text(error))
    return {
        "code": code,
        "type": type(error).__name__,
        "message": jsonable.clean(message, max_string=MAX_MESSAGE),
    }


def _emit_error(guard: Guard, error: BaseException) -> None:
    try:
        lines = "".join(traceback.format_exception(error))
    except Exception as unprintable:  # an exception whose __str__ or __cause__ is broken
        lines = f"(no traceback: {jsonable.error_text(unprintable)})"
    guard.trace.emit(
        "error",
        {
            **describe_error(error),
            "traceback": jsonable.clean(redaction.redact(lines), max_string=MAX_TRACEBACK),
        },
    )


class AgentTask(asyncio.Task[Any]):
    """A task that knows its run's guard, for the runtime and a watchdog."""

    guard: Guard | None = None
    run_context: contextvars.Context | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, unless it is another run's than the code's that asks.

        ``asyncio.all_tasks()`` gives an agent the tasks of all runs, and of the host. A run may
        cancel the runs that it has called.
        """
        by = current_guard()
        if by is not None and by is not self.guard and not self._is_below(by):
            _refuse_to_cancel(by)
            return False
        return super().cancel(msg)

    def _is_below(self, run: Guard) -> bool:
        return self.guard is not None and run.token in self.guard.token.ancestors()

    def __del__(self) -> None:
        """Complain, if asyncio has to ("exception was never retrieved"), in the run's own log.

        The collector runs in whichever code makes garbage: that may be another owner's run.
        """
        if self.guard is None or (self.done() and not self._log_traceback):
            super().__del__()
            return
        context = contextvars.Context()
        context.run(bind_trace, self.guard.trace)
        context.run(super().__del__)


def _refuse_to_cancel(by: Guard) -> None:
    if by.has_cancelled_others:
        return
    by.has_cancelled_others = True
    message = (
        "this run has tried to cancel tasks that are not its own, such as asyncio.all_tasks()"
        " gives; they go on"
    )
    by.trace.emit("log", {"level": "warning", "message": message})


def task_factory(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any],
    *,
    context: contextvars.Context | None = None,
    **options: Any,
) -> AgentTask:
    """Make the tasks of an agent loop: ``loop.set_task_factory(task_factory)``."""
    if context is None:
        context = contextvars.copy_context()
    task = AgentTask(coro, loop=loop, context=context, **options)
    task.run_context = context
    guard = guard_in(context)
    if guard is not None:
        task.guard = guard
        guard.tasks.add(task)
        task.add_done_callback(guard.forget_task)
    return task
