"""The async generators of runs, which are closed before their run ends.

As ``asyncio.run`` closes those of its loop: a generator that was left in the middle has a
``finally`` block that is still to run, with the tools of its run.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from agents.exceptions import AgentStopped
from agents.guard import Guard, current_guard, speak_last
from agents.values import jsonable

from .labels import label_of

__all__ = ["close_generators", "watch_generators"]

_Generator = AsyncGenerator[Any, Any]
_Hook = Callable[[_Generator], None]

MIN_COUNT = 64  # of a run's notes before those of generators that are gone are looked for


class _Note(weakref.ref[_Generator]):
    """A generator that has begun, with its run and its context."""

    __slots__ = ("context", "guard")

    guard: Guard
    context: contextvars.Context


#: By the generators' ids: when one is finalised, no weak reference to it is left.
_notes: dict[int, _Note] = {}
_lock = threading.RLock()  # reentrant: finalisers run anywhere


def watch_generators() -> None:
    """Note the generators that begin on this thread's loop from now on. Repeats do nothing."""
    before = sys.get_asyncgen_hooks()
    if isinstance(before.firstiter, _Hooks):
        return
    hooks = _Hooks(asyncio.get_running_loop(), before.firstiter, before.finalizer)
    sys.set_asyncgen_hooks(firstiter=hooks, finalizer=hooks.finalize)


class _Hooks:
    """Follows the loop's own hooks."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, first: _Hook | None, final: _Hook | None
    ) -> None:
        self._loop = loop
        self._first = first
        self._final = final

    def __call__(self, generator: _Generator) -> None:
        if self._first is not None:
            self._first(generator)
        guard = current_guard()
        if guard is None:
            return
        note = _Note(generator)
        note.guard, note.context = guard, contextvars.copy_context()
        with _lock:
            of_run = guard.generators
            _notes[id(generator)] = of_run[id(generator)] = note
            if len(of_run) >= guard.generators_limit:
                _forget(of_run, [key for key, each in of_run.items() if each() is None])
                guard.generators_limit = max(MIN_COUNT, 2 * len(of_run))

    def finalize(self, generator: _Generator) -> None:
        """Close a generator that no code can reach any more; from any thread."""
        with _lock:
            note = _notes.pop(id(generator), None)
            if note is not None:
                note.guard.generators.pop(id(generator), None)
        if note is None:
            if self._final is not None:
                self._final(generator)
            return
        _close(self._loop, note, generator)


def close_generators(guard: Guard) -> None:
    """Begin to close a run's generators; each is known work until it is closed. On the loop."""
    with _lock:
        notes = list(guard.generators.values())
        _forget(guard.generators, list(guard.generators))
    for note in notes:
        generator = note()
        if generator is not None and getattr(generator, "ag_frame", None) is not None:
            _close(asyncio.get_running_loop(), note, generator)


def _forget(of_run: dict[int, Any], keys: list[int]) -> None:
    for key in keys:
        note = of_run.pop(key)
        if _notes.get(key) is note:
            del _notes[key]


def _close(loop: asyncio.AbstractEventLoop, note: _Note, generator: _Generator) -> None:
    guard, context = note.guard, note.context.copy()
    work = guard.in_flight.begin_work("task", f"{label_of(generator)}, closing")
    context.run(speak_last)

    def start() -> None:
        task = loop.create_task(_closed(guard, generator), context=context)
        guard.tasks.discard(task)  # it is to end by itself
        guard.closings.append(task)
        task.add_done_callback(partial(_end, guard, work))

    if asyncio._get_running_loop() is loop:
        start()
        return
    try:
        loop.call_soon_threadsafe(start, context=contextvars.Context())
    except RuntimeError:  # the loop is closed
        guard.in_flight.end_work(work)


def _end(guard: Guard, work: str, task: asyncio.Task[None]) -> None:
    guard.closings.remove(task)
    guard.in_flight.end_work(work)


async def _closed(guard: Guard, generator: _Generator) -> None:
    with suppress(asyncio.CancelledError, AgentStopped):
        try:
            await generator.aclose()
        except Exception as error:
            message = f"{label_of(generator)} failed while it was closed: "
            guard.trace.emit(
                "log", {"level": "error", "message": message + jsonable.error_text(error)}
            )
