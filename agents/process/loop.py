"""The event loop that the agents of a process share."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from agents.guard import current_guard

from .threads import RunThread, agent_code

__all__ = ["AgentLoop"]


class AgentLoop(asyncio.SelectorEventLoop):
    """A loop whose runs' jobs in threads are agent code: see ``threads.Host``."""

    def run_in_executor(  # type: ignore[override]  # typeshed has TypeVarTuples here
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a job of a run in the run's context, whichever executor it is for.

        ``asyncio.to_thread`` and ``sync_to_async`` come by here, too.
        """
        if current_guard() is None or isinstance(executor, RunThread):
            return super().run_in_executor(executor, func, *args)
        context = contextvars.copy_context()
        return super().run_in_executor(executor, context.run, _as_agent_code, func, args)


def _as_agent_code(func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with agent_code():
        return func(*args)
