"""The recent log of each followed run and what is known of the run, shared by all its readers.

A tail sends nothing. It remembers a bounded piece of the log and wakes its readers, and each reader
takes what comes after its own position.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from agents.trace import Event, Trace
from agents.wire import CallInfo
from runs.delivery import local_runs

from .frames import Frame, View, to_json
from .reading import Fingerprint, Snapshot
from .texts import Texts

__all__ = ["RunTail", "Tails", "Wakeable", "encode_event", "model_call"]

MOST_EVENTS = 1_000
MOST_CHARACTERS = 1_000_000  # of the events kept here
ACTIVITY_SECONDS = 0.05
LINGER_SECONDS = 30.0  # a page that is loaded again finds the answers in progress


class Wakeable(Protocol):
    """A reader that a tail can wake."""

    def wake(self) -> None: ...


class RunTail:
    """One run, as its readers in this process know it.

    Attributes:
        snapshot: the run's record, None until it was read.
        version: grows with each snapshot that says something new.
        last_seq: the last event that is known of.
        activity_version: grows with each change of what is in flight.
        texts: the answers that its models are writing.
        is_gone: the run was deleted.
        fingerprint: what the last poll saw.
    """

    def __init__(self, id: uuid.UUID) -> None:
        self.id = id
        self.snapshot: Snapshot | None = None
        self.version = 0
        self.last_seq = 0
        self.activity_version = 0
        self.texts = Texts(str(id), self._wake)
        self.is_gone = False
        self.fingerprint: Fingerprint | None = None
        self.followers: set[Wakeable] = set()
        self.input_json: str | None = None
        self._events: deque[str] = deque()
        self._characters = 0
        self._in_flight: list[CallInfo] = []
        self._usage: Mapping[str, Any] = {}
        self._activity_timer: asyncio.TimerHandle | None = None
        self._activity: tuple[list[CallInfo], Mapping[str, Any]] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the run is over and nothing more will come."""
        return (
            self.snapshot is not None
            and self.snapshot.is_over
            and self.last_seq >= self.snapshot.last_seq
        )

    # The log.

    def add(self, seq: int, event: str) -> bool:
        """Append an event; False if it does not come next, and the log must be read."""
        if seq <= self.last_seq:
            return True  # known
        if seq != self.last_seq + 1:
            return False
        self._events.append(event)
        self._characters += len(event)
        self.last_seq = seq
        while len(self._events) > MOST_EVENTS or self._characters > MOST_CHARACTERS:
            self._characters -= len(self._events.popleft())
        self._wake()
        return True

    def start_at(self, seq: int) -> None:
        """Know of everything up to ``seq``, and keep nothing of it: it is in the table."""
        self._events.clear()
        self._characters = 0
        self.last_seq = seq
        self._wake()

    def after(self, seq: int, limit: int) -> list[str] | None:
        """Return up to ``limit`` events after ``seq``; None if they are only in the table."""
        first = self.last_seq - len(self._events) + 1
        if seq + 1 < first:
            return None
        start = seq + 1 - first
        return [self._events[i] for i in range(start, min(start + limit, len(self._events)))]

    # The record.

    def show(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot of the record."""
        is_new = not snapshot.says_the_same_as(self.snapshot)
        self.snapshot = snapshot
        if snapshot.is_over:
            self.texts.end_all()
        if is_new:
            self.version += 1
            self._wake()

    def go(self) -> None:
        """Be deleted."""
        if self.is_gone:
            return
        self.is_gone = True
        self._wake()

    def run_frame(self, type: Any, view: View) -> Frame:
        """Return the run as it is now."""
        assert self.snapshot is not None
        run = {**self.snapshot.run, **self._current()}
        if view.is_page:
            return Frame(type, to_json(run), to_json(self.snapshot.words(view.zone, run)))
        data = to_json(run)
        if self.input_json is not None:
            data = f'{{"input":{self.input_json},{data[1:]}'
        return Frame(type, data)

    def _current(self) -> dict[str, Any]:
        """Return what is newer than the record, which is written a moment later."""
        assert self.snapshot is not None
        if self.snapshot.is_over:
            return {}
        current: dict[str, Any] = {"last_seq": max(self.last_seq, self.snapshot.last_seq)}
        if self.activity_version:
            current |= {"in_flight": self._in_flight, "usage": self._usage}
        return current

    # What is in flight.

    def set_activity(self, in_flight: list[CallInfo], usage: Mapping[str, Any]) -> None:
        """Know what is in flight now; readers get it at most twenty times a second."""
        self.texts.know_calls({call["call"] for call in in_flight})
        known = self._activity or (self._in_flight, self._usage)
        if self.activity_version and known == (in_flight, usage):
            return
        self._activity = (in_flight, usage)
        if self._activity_timer is None:
            self._show_activity()

    def _show_activity(self) -> None:
        self._activity_timer = None
        if self._activity is None:
            return
        (self._in_flight, self._usage), self._activity = self._activity, None
        self.activity_version += 1
        self.texts.end_what_is_over()
        loop = asyncio.get_running_loop()
        self._activity_timer = loop.call_later(ACTIVITY_SECONDS, self._show_activity)
        self._wake()

    def activity_frame(self, view: View) -> Frame:
        """Return what is in flight now."""
        activity = {"run": str(self.id), "in_flight": self._in_flight, "usage": self._usage}
        if not view.is_page or self.snapshot is None:
            return Frame("activity", to_json(activity))
        words = self.snapshot.words(view.zone, {**self.snapshot.run, **self._current()})
        return Frame("activity", to_json(activity), to_json(words))

    # If the run is in this process, all of it is known exactly.

    def take_activity(self) -> bool:
        """Take what is in flight from the run itself; False if the run is not in this process."""
        trace = self._trace()
        if trace is not None:
            self.set_activity(trace.in_flight(), trace.usage.as_dict())
        return trace is not None

    def take_texts(self) -> None:
        """Take what is missing of the answers in progress from the run itself."""
        trace = self._trace()
        if trace is not None:
            for call, (start, text) in trace.texts_after(self.texts.lengths()).items():
                self.texts.take(trace.agent, call, start, text)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process may have the run, or get it."""
        is_over = self.snapshot is not None and self.snapshot.is_over
        return not (is_over or self.is_gone) and local_runs.get(self.id) is None

    def _trace(self) -> Trace | None:
        entry = local_runs.get(self.id)
        return entry.guard.trace if entry is not None and entry.guard is not None else None

    def close(self) -> None:
        """Stop all timers."""
        self.texts.close()
        if self._activity_timer is not None:
            self._activity_timer.cancel()
        self._activity = None

    def _wake(self) -> None:
        for follower in self.followers:
            follower.wake()


class Tails:
    """The tails of the runs that are followed in this process, or were a moment ago.

    Used on the hub's loop alone, except ``has`` and ``in``.
    """

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
        """Make a run's tail, which knows what happens in this process but not the record."""
        tail = self._tails[id] = RunTail(id)
        self._names[str(id)] = id
        tail.take_activity()
        tail.take_texts()
        return tail

    def leave(self, tail: RunTail, *, at_once: bool = False) -> None:
        """Forget a tail without readers, after a while if more may come."""
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


def encode_event(event: Event) -> str:
    """Return an event as JSON."""
    return to_json(event.as_dict())


def model_call(event: str) -> str:
    """Return the call that an encoded event is the end of, if it is a model's; else nothing."""
    if '"type":"llm_call"' not in event:
        return ""
    read = json.loads(event)
    return str(read["data"].get("call", "")) if read["type"] == "llm_call" else ""
