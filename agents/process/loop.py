"""The event loop that the agents of a process share."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from agents.guard import current_guard, guard_in

from .state import shared
from .threads import RunThread, agent_code

__all__ = ["AgentLoop"]

_call_soon = asyncio.SelectorEventLoop.call_soon


class AgentLoop(asyncio.SelectorEventLoop):
    """A loop that looks after what its runs share.

    It watches the process's state at each step of a run (``state``), surrounds the runs' jobs in
    threads (``threads``), and lets no run change or end the loop itself.
    """

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

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a job of a run in the run's context, whichever executor it is for.

        ``asyncio.to_thread`` and ``sync_to_async`` come by here, too.
        """
        if current_guard() is None or isinstance(executor, RunThread):
            return super().run_in_executor(executor, func, *args)
        context = contextvars.copy_context()
        return super().run_in_executor(executor, context.run, _as_agent_code, func, args)

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


def _refuse_in_a_run(what: str) -> None:
    if current_guard() is not None:
        raise RuntimeError(f"{what}(): an agent can't do this to the loop that all agents share")
