"""What calls code of a run without a task: its timers and its servers. They end with the run.

As ``asyncio.run`` drops the timers of its loop: a function that schedules itself again would go on
for ever.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from agents.guard import Guard

__all__ = ["end_callers", "note_server", "note_timer"]


def note_timer(guard: Guard, timer: asyncio.TimerHandle, callback: Callable[..., Any]) -> None:
    """Let a run's end cancel a timer.

    asyncio's own are left alone: a connection that other runs share may have one.
    """
    while isinstance(callback, partial):
        callback = callback.func
    module = getattr(callback, "__module__", None) or ""
    if module.partition(".")[0] not in ("asyncio", "_asyncio"):
        _note(guard, timer)


def note_server(guard: Guard, server: asyncio.AbstractServer) -> None:
    """Let a run's end close a server."""
    _note(guard, server)


def _note(guard: Guard, caller: object) -> None:
    if guard.callers is None:
        guard.callers = weakref.WeakSet()
    guard.callers.add(caller)


def end_callers(guard: Guard) -> None:
    """Cancel the timers that a run has left, and close its servers. On the loop."""
    for caller in list(guard.callers or ()):
        if isinstance(caller, asyncio.TimerHandle):
            caller.cancel()
        else:
            caller.close()
