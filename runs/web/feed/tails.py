"""The tails of this process: of each run that somebody here follows, or has just ceased to."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

from runs.delivery import local_runs

from .tail import RunTail

__all__ = ["Tails", "take_activity"]

LINGER_SECONDS = 30.0  # a page that is loaded again finds what a model has said so far


class Tails:
    """The tails, by their runs. Used on the hub's loop alone, but for ``has``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tails: dict[uuid.UUID, RunTail] = {}
        self._names: dict[str, uuid.UUID] = {}  # as events have them

    def __iter__(self) -> Iterator[RunTail]:
        return iter(list(self._tails.values()))

    def __contains__(self, id: uuid.UUID) -> bool:
        return id in self._tails

    def __len__(self) -> int:
        return len(self._tails)

    def get(self, id: uuid.UUID) -> RunTail | None:
        return self._tails.get(id)

    def named(self, run: str) -> RunTail | None:
        """Return the tail of a run whose id comes as text."""
        id = self._names.get(run)
        return self._tails.get(id) if id is not None else None

    def has(self, run: str) -> bool:
        """Tell whether there is a tail of a run. From any thread."""
        return run in self._names

    def open(self, id: uuid.UUID) -> RunTail:
        """Make a run's tail, which knows by now what goes on here, and nothing of the record."""
        tail = self._tails[id] = RunTail(id)
        self._names[str(id)] = id
        take_activity(tail)
        _take_texts(tail)
        return tail

    def leave(self, tail: RunTail, *, at_once: bool = False) -> None:
        """Forget a tail that nobody follows any more, after a while if more may come."""
        if at_once or tail.is_complete or tail.is_gone or tail.snapshot is None:
            self._forget(tail)
        else:
            self._loop.call_later(LINGER_SECONDS, self.forget_if_alone, tail)

    def forget_if_alone(self, tail: RunTail) -> None:
        if not tail.followers and self._tails.get(tail.id) is tail:
            self._forget(tail)

    def close(self) -> None:
        for tail in self:
            tail.close()

    def _forget(self, tail: RunTail) -> None:
        tail.close()
        if self._tails.get(tail.id) is tail:
            del self._tails[tail.id]
            del self._names[str(tail.id)]


def take_activity(tail: RunTail) -> bool:
    """Look what is in flight, if the run is in this process: there it is known exactly."""
    entry = local_runs.get(tail.id)
    if entry is None or entry.guard is None:
        return False
    trace = entry.guard.trace
    tail.set_activity(trace.in_flight(), trace.usage.as_dict())
    return True


def _take_texts(tail: RunTail) -> None:
    """Begin with what models have said before anybody watched."""
    entry = local_runs.get(tail.id)
    if entry is not None and entry.guard is not None:
        trace = entry.guard.trace
        for call, text in trace.texts_so_far().items():
            tail.texts.begin(trace.agent, call, text)
