"""The event loop that the agents of a process share."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from typing import Any

from agents.guard import Guard, current_guard, guard_in

from .callers import note_server, note_timer
from .children import start_watched
from .generators import watch_generators
from .jobs import Jobs
from .labels import label_of, name_of_program
from .own_threads import LOOK_UPS
from .state import is_own_work, own_work, shared
from .threads import RunThread, agent_code

__all__ = ["AgentLoop"]

_call_soon = asyncio.SelectorEventLoop.call_soon


class AgentLoop(asyncio.SelectorEventLoop):
    """A loop that looks after what its runs share.

    It watches the process's state at each step of a run (``state``), surrounds the runs' jobs in
    threads (``threads``), and lets no run change or end the loop itself. What a run puts into
    threads and processes is known work of the run.

    Args:
        jobs: executes the runs' jobs for the default executor.
    """

    def __init__(self, jobs: Jobs | None = None) -> None:
        super().__init__()
        self._jobs = jobs or Jobs()

    def run_forever(self) -> None:
        self.call_soon(watch_generators, context=contextvars.Context())
        super().run_forever()

    def call_soon(  # type: ignore[override]  # typeshed has TypeVarTuples here
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Schedule a callback. Each step of a task is one, in the task's context."""
        guard = current_guard() if context is None else guard_in(context)
        if guard is None or not shared.is_watching:
            return _call_soon(self, callback, *args, context=context)
        return _call_soon(self, shared.step, guard, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Schedule a callback, also for ``call_later``. A run's end cancels those of the run."""
        timer = super().call_at(when, callback, *args, context=context)
        guard = current_guard() if context is None else guard_in(context)
        if guard is not None:
            note_timer(guard, timer, callback)
        return timer

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """Make a server. A run's end closes those of the run."""
        return _noted(await super().create_server(*args, **options))

    async def create_unix_server(self, *args: Any, **options: Any) -> Any:
        """Make a server on a Unix socket. A run's end closes those of the run."""
        return _noted(await super().create_unix_server(*args, **options))

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a job of a run in the run's context, whichever executor it is for.

        ``asyncio.to_thread`` and ``sync_to_async`` come by here, too. The job is known work of its
        run until it has returned.
        """
        guard = current_guard()
        if guard is None or is_own_work():
            return super().run_in_executor(executor, func, *args)
        if isinstance(executor, RunThread):  # it has the context, and surrounds its jobs
            job: Callable[[], Any] = partial(func, *args)
        else:
            job = partial(contextvars.copy_context().run, _as_agent_code, func, args)
        label = label_of(func)
        if executor is None:
            future = self._jobs.submit(guard, label, job)
        elif isinstance(executor, ProcessPoolExecutor):  # which takes no context along
            future = _submit(guard, "process", label, executor, partial(func, *args))
        else:
            future = _submit(guard, "thread", label, executor, job)
        return asyncio.wrap_future(future, loop=self)

    async def subprocess_exec(
        self, protocol_factory: Callable[[], Any], program: Any, *args: Any, **options: Any
    ) -> tuple[Any, Any]:
        """Start a process; a run's is known work of the run until it has exited."""

        def start(factory: Callable[[], Any]) -> Any:
            return super(AgentLoop, self).subprocess_exec(factory, program, *args, **options)

        return await _start(start, protocol_factory, name_of_program(program))

    async def subprocess_shell(
        self, protocol_factory: Callable[[], Any], cmd: Any, **options: Any
    ) -> tuple[Any, Any]:
        """Start a shell; a run's is known work of the run until it has exited."""

        def start(factory: Callable[[], Any]) -> Any:
            return super(AgentLoop, self).subprocess_shell(factory, cmd, **options)

        return await _start(start, protocol_factory, "a shell")  # the command may have secrets

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Look a name up, in threads that no agent's jobs use."""
        return await LOOK_UPS.run(socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """Look an address up, in threads that no agent's jobs use."""
        return await LOOK_UPS.run(socket.getnameinfo, sockaddr, flags)

    def stop(self) -> None:
        _refuse_in_a_run("stop")
        super().stop()

    def set_task_factory(self, factory: Any) -> None:
        _refuse_in_a_run("set_task_factory")
        super().set_task_factory(factory)

    def set_exception_handler(self, handler: Any) -> None:
        _refuse_in_a_run("set_exception_handler")
        super().set_exception_handler(handler)

    def set_default_executor(self, executor: Any) -> None:
        _refuse_in_a_run("set_default_executor")
        super().set_default_executor(executor)

    def set_debug(self, enabled: bool) -> None:
        _refuse_in_a_run("set_debug")
        super().set_debug(enabled)

    async def shutdown_default_executor(self) -> None:
        _refuse_in_a_run("shutdown_default_executor")
        await super().shutdown_default_executor()

    async def shutdown_asyncgens(self) -> None:
        _refuse_in_a_run("shutdown_asyncgens")
        await super().shutdown_asyncgens()


def _as_agent_code(func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with agent_code():
        return func(*args)


def _submit(
    guard: Guard, kind: Any, label: str, executor: Executor, job: Callable[[], Any]
) -> Future[Any]:
    """Give a job to an executor that is not the loop's."""
    work = guard.in_flight.begin_work(kind, label)

    def end(_: object = None) -> None:
        guard.in_flight.end_work(work)

    def run() -> Any:
        try:
            return job()
        finally:
            end()  # before the result is known

    try:
        with own_work():  # of its threads only the jobs count, and these are watched
            future = executor.submit(job if kind == "process" else run)
    except BaseException:
        end()
        raise
    future.add_done_callback(end)  # one that was cancelled never ran
    return future


async def _start(
    start: Callable[[Callable[[], Any]], Any], protocol_factory: Callable[[], Any], label: str
) -> tuple[Any, Any]:
    guard = current_guard()
    if guard is None or is_own_work():
        transport, protocol = await start(protocol_factory)
        return transport, protocol
    return await start_watched(guard, start, protocol_factory, label)


def _noted(server: asyncio.AbstractServer) -> asyncio.AbstractServer:
    guard = current_guard()
    if guard is not None:
        note_server(guard, server)
    return server


def _refuse_in_a_run(what: str) -> None:
    if current_guard() is not None:
        raise RuntimeError(f"{what}(): an agent can't do this to the loop that all agents share")
