"""The recent log of each followed run and its state, shared by all its readers.

A tail sends nothing. It keeps a bounded piece of the log and wakes its readers, and each reader
takes what comes after its own position.
"""

from __future__ import annotations

import asyncio
import json
import uuid
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from agents.wire import CallOnWire
from runs.delivery import local_runs

from .frames import LARGE_CHARACTERS, Activity, Frame, FrameType, Shared, View, to_json
from .reading import Fingerprint, Snapshot
from .texts import Texts

__all__ = ["RunTail", "Tails", "model_call"]

MOST_EVENTS = 1_000
MOST_CHARACTERS = 1_000_000  # of the events kept here
ACTIVITY_SECONDS = 0.05
LINGER_SECONDS = 30.0  # a page that is loaded again finds the answers in progress


class RunTail:
    """One run, as its readers in this process know it.

    Attributes:
        snapshot: the run's record, None until it was read.
        version: grows with each snapshot that says something new.
        last_seq: the last event that is known of.
        activity_version: grows with each change of the calls in flight.
        texts: the answers that its models are writing.
        is_gone: the run was deleted.
        wakers: one for each reader.
        fingerprint: what the last poll saw.
        input_json: None until it was read, and if it is large.
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
        self.wakers: set[Callable[[], None]] = set()
        self.input_json: str | None = None
        self._events: deque[Shared] = deque()
        self._characters = 0
        self._in_flight: list[CallOnWire] = []
        self._usage: Mapping[str, Any] = {}
        # Of which record and version: it has the usage of the tree.
        self._activity_json: tuple[Snapshot | None, int, Shared] = None, -1, Shared()
        self._activity_timer: asyncio.TimerHandle | None = None
        self._activity_is_new = False
        self._run_frame: tuple[tuple[int, int, int], Frame | None] = (0, 0, 0), None
        self._whole: tuple[weakref.ref[Shared], int, int, int] | None = None
        self._reading: asyncio.Future[str | None] | None = None

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
        self._events.append(event if isinstance(event, Shared) else Shared(event))
        self._characters += len(event)
        self.last_seq = seq
        while len(self._events) > MOST_EVENTS or self._characters > MOST_CHARACTERS:
            self._characters -= len(self._events.popleft())
        self._wake()
        return True

    def start_at(self, seq: int) -> None:
        """Leave the log up to ``seq`` to the table."""
        self._events.clear()
        self._characters = 0
        self.last_seq = seq
        self._wake()

    def after(self, seq: int, limit: int) -> Sequence[str] | None:
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
        """Note that the run was deleted."""
        if not self.is_gone:
            self.is_gone = True
            self._wake()

    def run_frame(self, type: FrameType, view: View) -> Frame:
        """Return the run as it is now, without an input that is large; the same to all readers."""
        assert self.snapshot is not None
        if view.is_page:  # its words are for one reader, and of this moment
            return self.snapshot.frame(type, view, None, self._current())
        state = (self.version, self.last_seq, self.activity_version)
        known, frame = self._run_frame
        if frame is None or known != state:
            frame = self.snapshot.frame(type, view, self.input_json, self._current())
            self._run_frame = state, frame
        return frame if frame.type == type else frame._replace(type=type)

    async def whole_frame(
        self, type: FrameType, view: View, read_input: Callable[[], Awaitable[str | None]]
    ) -> tuple[Frame, int, int]:
        """Return the run with its input, and the versions of its record and activity in there.

        A large input is read once for all readers that want it at the same time, and a run with a
        large input is encoded once. The calls in flight in there may be older than ``run_frame``'s.
        """
        if not view.is_page and self.input_json is None:
            whole = self._whole_now()
            if whole is None:
                input_json = await self._read_input(read_input)
                whole = self._whole_now()  # another reader may have been first
                if whole is None and input_json and len(input_json) > LARGE_CHARACTERS:
                    whole = self._make_whole(input_json)
                elif whole is None:
                    self.input_json = input_json
            if whole is not None:
                data, activity_version = whole
                return Frame(type, data), self.version, activity_version
        return self.run_frame(type, view), self.version, self.activity_version

    def _whole_now(self) -> tuple[Shared, int] | None:
        """Return the run with its large input, if a reader is being sent it as it is now."""
        if self._whole is None:
            return None
        found, version, last_seq, activity_version = self._whole
        data = found()
        is_now = data is not None and (version, last_seq) == (self.version, self.last_seq)
        return (data, activity_version) if data is not None and is_now else None

    def _make_whole(self, input_json: str) -> tuple[Shared, int]:
        assert self.snapshot is not None
        data = self.snapshot.frame("run", View(), input_json, self._current()).data
        assert isinstance(data, Shared)
        # Only the readers keep it, for as long as they are being sent it.
        self._whole = weakref.ref(data), self.version, self.last_seq, self.activity_version
        return data, self.activity_version

    async def _read_input(self, read: Callable[[], Awaitable[str | None]]) -> str | None:
        if self._reading is None:
            self._reading = asyncio.ensure_future(read())
            self._reading.add_done_callback(self._forget_reading)
        return await asyncio.shield(self._reading)

    def _forget_reading(self, reading: asyncio.Future[str | None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # the readers that have left don't retrieve it

    def _current(self) -> dict[str, Any]:
        """Return the fields that are newer than the record, which is written a moment later."""
        assert self.snapshot is not None
        if self.snapshot.is_over:
            return {}
        current: dict[str, Any] = {"last_seq": max(self.last_seq, self.snapshot.last_seq)}
        if self.activity_version:
            current |= {"in_flight": self._in_flight, "usage": self._usage}
        return current

    # The calls in flight.

    def set_activity(self, in_flight: list[CallOnWire], usage: Mapping[str, Any]) -> None:
        """Take the calls in flight; readers get them at most twenty times a second."""
        self.texts.know_calls({call["call"] for call in in_flight})
        if self.activity_version and (in_flight, usage) == (self._in_flight, self._usage):
            return
        self._in_flight, self._usage = in_flight, usage
        self._activity_is_new = True
        if self._activity_timer is None:
            self._show_activity()

    def _show_activity(self) -> None:
        self._activity_timer = None
        if not self._activity_is_new:
            return
        self._activity_is_new = False
        self.activity_version += 1
        self.texts.end_what_is_over()
        loop = asyncio.get_running_loop()
        self._activity_timer = loop.call_later(ACTIVITY_SECONDS, self._show_activity)
        self._wake()

    def activity_frame(self, view: View) -> Frame:
        """Return the calls that are in flight now."""
        run = self.snapshot.with_current(self._current()) if self.snapshot is not None else {}
        activity: Activity = {
            "run": str(self.id),
            "in_flight": self._in_flight,
            "usage": self._usage,
            "usage_tree": run.get("usage_tree", self._usage),
        }
        if not view.is_page or self.snapshot is None:
            snapshot, version, data = self._activity_json
            if snapshot is not self.snapshot or version != self.activity_version:
                data = Shared(to_json(activity))
                self._activity_json = self.snapshot, self.activity_version, data
            return Frame("activity", data)
        return Frame("activity", to_json(activity), to_json(self.snapshot.words(view.zone, run)))

    # A run of this process is known exactly.

    def take_activity(self) -> bool:
        """Take the calls in flight from the run itself; False if it is not in this process."""
        trace = local_runs.trace_of(self.id)
        if trace is not None:
            self.set_activity(trace.in_flight(), trace.usage.as_dict())
        return trace is not None

    def take_texts(self) -> None:
        """Take what is missing of the answers in progress from the run itself."""
        trace = local_runs.trace_of(self.id)
        if trace is not None:
            for call, (start, text) in trace.texts_after(self.texts.lengths()).items():
                self.texts.take(trace.agent, call, start, text)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process may have the run, or claim it."""
        is_over = self.snapshot is not None and self.snapshot.is_over
        return not (is_over or self.is_gone) and local_runs.get(self.id) is None

    def close(self) -> None:
        """Stop all timers."""
        self.texts.close()
        if self._activity_timer is not None:
            self._activity_timer.cancel()
        self._activity_is_new = False

    def _wake(self) -> None:
        for wake in self.wakers:
            wake()


class Tails:
    """The tails of the runs that are followed in this process, or were a moment ago.

    Used on the hub's loop alone, except ``in``. A run is named by its id, or by its id as text, as
    in events.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tails: dict[uuid.UUID | str, RunTail] = {}  # each under both names

    def __iter__(self) -> Iterator[RunTail]:
        return iter(dict.fromkeys(self._tails.values()))

    def __contains__(self, run: uuid.UUID | str) -> bool:
        return run in self._tails

    def get(self, run: uuid.UUID | str) -> RunTail | None:
        return self._tails.get(run)

    def open(self, id: uuid.UUID) -> RunTail:
        """Make a run's tail. It has what a run of this process knows, and no record yet."""
        tail = self._tails[id] = self._tails[str(id)] = RunTail(id)
        tail.take_activity()
        tail.take_texts()
        return tail

    def leave(self, tail: RunTail, *, at_once: bool = False) -> None:
        """Forget a tail without readers, after a while if more may come."""
        if at_once or tail.is_complete or tail.is_gone or tail.snapshot is None:
            self.forget_if_alone(tail)
        else:
            self._loop.call_later(LINGER_SECONDS, self.forget_if_alone, tail)

    def forget_if_alone(self, tail: RunTail) -> None:
        if not tail.wakers and self.get(tail.id) is tail:
            tail.close()
            del self._tails[tail.id], self._tails[str(tail.id)]


def model_call(event: str) -> str:
    """Return the call that an encoded event is the end of, if it is a model's; else nothing."""
    if '"type":"llm_call"' not in event:
        return ""
    read = json.loads(event)
    return str(read["data"].get("call", "")) if read["type"] == "llm_call" else ""
