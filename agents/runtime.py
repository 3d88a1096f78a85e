"""Run one agent's function under a guard, and say how it ended.

The runtime knows nothing of records, queues or processes. It binds the ambient token, trace and
guard, calls the function, and returns only when the agent's code has really ended: its calls in
flight, its sub-agents, and the tasks that it left running.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

from . import output
from .cancellation import StopCause, bind_token, leave_cleanup
from .environment import Environment
from .exceptions import AgentError, AgentStopped, InvalidOutput
from .guard import Guard, bind_guard, guard_in
from .process.threads import agent_code
from .registry import AgentDefinition
from .tools import SyncTools, Tools
from .tools.agents.handle import forget_started, settle_started
from .tools.http.client import close_clients
from .trace import bind_trace
from .values import jsonable, redaction
from .wire import ErrorInfo

__all__ = ["AgentTask", "Outcome", "describe_error", "run_agent", "task_factory"]

logger = logging.getLogger(__name__)

LEFT_BEHIND_SECONDS = 5.0  # how long a cancelled task that an agent has left may take
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
        cleanup_error: what came out of a stopped agent instead of ``AgentStopped``.
    """

    kind: Literal["success", "error", "stopped", "interrupted"]
    result: Any = None
    partial_result: Any = None
    error: ErrorInfo | None = None
    cleanup_error: ErrorInfo | None = None


async def run_agent(
    definition: AgentDefinition, arguments: dict[str, Any], environment: Environment
) -> Outcome:
    """Call the agent's function and return how it ended; never raises.

    Await it in a task with a context of its own, on a loop with ``task_factory``. If the token is
    tripped already, the function is never called.
    """
    guard = environment.guard
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
        await _settle(guard)
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
    return await _in_thread(definition.name, lambda: definition.function(tools, **arguments))


async def _in_thread(name: str, work: Callable[[], Any]) -> Any:
    """Call ``work`` in a thread of its own, in a copy of this context.

    A daemon, so that a thread that never comes back can't keep the process from ending; a pool's
    threads are joined at exit, and could starve agents that call agents.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def finish(value: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def in_thread() -> Any:
        with agent_code():
            return work()

    def main() -> None:
        try:
            value, error = context.run(in_thread), None
        except BaseException as raised:
            value, error = None, raised
        try:
            loop.call_soon_threadsafe(finish, value, error)
        except RuntimeError:
            logger.warning("agent %s came back after its loop was closed", name)

    threading.Thread(target=main, name=f"agent-{name}", daemon=True).start()
    value, error = await done
    if error is not None:
        raise error
    return value


async def _settle(guard: Guard) -> None:
    """Wait until nothing of the agent's is running any more.

    Tasks that it left are cancelled, as asyncio.run() does at its end. During a stop these may be
    branches of a gather() that have not observed it yet: as in a TaskGroup, their calls in flight
    finish first, and their ``finally`` blocks may still use ``cleanup()``.
    """
    if not guard.token.stopped:  # otherwise the token refuses
        guard.close()
    try:
        await _end_left_behind(guard)
        guard.close()
        await settle_started(guard)
        await close_clients(guard)  # what may be in flight now are responses that no code reads
        await guard.settle()
        await settle_started(guard)  # by a call that was in flight in a thread
        await close_clients(guard)
    finally:
        guard.close()
        forget_started(guard)
        left = _left_behind(guard)
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=LEFT_BEHIND_SECONDS)
        for task in left:
            message = f"the agent left a task running: {task.get_name()}"
            guard.trace.emit("log", {"level": "warning", "message": message})


async def _end_left_behind(guard: Guard) -> None:
    """Cancel the agent's tasks, and wait for all but those that neither call a tool nor end."""
    left = _left_behind(guard)
    for task in left:
        if not task.cancelling():
            task.cancel()
    while left:
        ended, _ = await asyncio.wait(
            left, timeout=LEFT_BEHIND_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not ended and not guard.parts:
            return
        left = _left_behind(guard)


def _left_behind(guard: Guard) -> set[asyncio.Task[Any]]:
    return {task for task in list(guard.tasks) if not task.done()}


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
            return Outcome("error", partial_result=_whole(value), error=describe_error(invalid))
    _emit_error(guard, essence)
    return Outcome("error", error=describe_error(essence))


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
        task.add_done_callback(guard.tasks.discard)
    return task
