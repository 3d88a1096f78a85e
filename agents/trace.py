"""What an agent did: its numbered events, the calls in flight, the tokens it used.

A Trace belongs to one run. It numbers events without a gap, makes them fit for JSON, takes secrets
out, and hands them to a sink: a table, a screen, a list in a test. Any thread may emit.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from .values import jsonable, redaction
from .wire import CallOnWire, EventOnWire, Source

__all__ = [
    "CALL_TYPES",
    "EVENT_TYPES",
    "Event",
    "Trace",
    "TraceSink",
    "Usage",
    "current_trace",
]

logger = logging.getLogger(__name__)

#: Type -> what it means. ``agent_start`` comes first (again at each new attempt). ``agent_end``
#: comes last and once; the host writes it, since only the host knows how the run has ended.
EVENT_TYPES: dict[str, str] = {
    "agent_start": "the agent's function is called",
    "llm_call": "a call to a model has ended",
    "data_store": "a call to the data store has ended",
    "http": "an HTTP request has ended",
    "agent_call": "a call to another agent has ended",
    "process": "a program that the agent has run has ended",
    "progress": "the agent says how far it is",
    "log": "a line by tools.log() or by Python's logging",
    "stdout": "text printed by the agent",
    "error": "an exception ended the agent, with its traceback",
    "stop_requested": "a stop was requested, or escalated",
    "stop_observed": "the agent's code observed the stop for the first time",
    "limit_near": "most of a limit of the run is used up",
    "loop_blocked": "the agent kept its event loop from running",
    "truncated": "the log is full (data says of what), what follows is left out",
    "agent_end": "the run is over; data.status says how",
}

#: Each is the end of one guarded call.
CALL_TYPES = frozenset({"llm_call", "data_store", "http", "agent_call", "process"})

#: Written even when the cap on events is reached.
_ESSENTIAL = frozenset(
    {"agent_start", "error", "stop_requested", "stop_observed", "truncated", "agent_end"}
)

#: Events of the agent's own code that show that it is alive.
_SIGNS_OF_LIFE = frozenset({"progress", "log"})

MAX_EVENTS = 10_000
MAX_STRING = 32_768  # characters of one string in an event
MAX_LABEL = 500  # characters of what a call in flight is called
MAX_TEXT_SO_FAR = 200_000  # characters of its streamed text that a call in flight keeps
MAX_DATA = 262_144  # characters of all strings in an event


@dataclass(slots=True, frozen=True)
class Event:
    """One numbered line of a run's log; ``seq`` starts at 1."""

    run: str
    seq: int
    ts: datetime
    type: str
    agent: str
    depth: int
    source: Source
    data: dict[str, Any]

    def as_dict(self) -> EventOnWire:
        return {
            "run": self.run,
            "seq": self.seq,
            "ts": self.ts.isoformat(),
            "type": self.type,
            "agent": self.agent,
            "depth": self.depth,
            "source": self.source,
            "data": self.data,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run has used of its models; ``estimated`` once any part of it was not reported."""

    llm_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.llm_calls + other.llm_calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.estimated or other.estimated,
        )

    def since(self, before: Usage) -> Usage:
        """Return what was used after ``before``."""
        return Usage(
            self.llm_calls - before.llm_calls,
            self.input_tokens - before.input_tokens,
            self.output_tokens - before.output_tokens,
            self.estimated,
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _StreamedText:
    """What a model has said so far in one call."""

    def __init__(self) -> None:
        self.length = 0
        self._kept = io.StringIO()

    def add(self, text: str) -> None:
        if self.length < MAX_TEXT_SO_FAR:
            self._kept.seek(0, io.SEEK_END)
            self._kept.write(text)
        self.length += len(text)

    def after(self, start: int) -> str:
        self._kept.seek(start)
        return self._kept.read()


class TraceSink(Protocol):
    """Where a trace goes. Called from any thread, in order of ``seq``; must not block or raise."""

    def event(self, event: Event) -> None: ...

    def activity(self, trace: Trace) -> None:
        """The calls in flight have changed; ``trace.in_flight()`` has them."""

    def text(self, trace: Trace, call: str, text: str) -> None:
        """A piece of a model's answer as it streams; never stored."""


@dataclass(slots=True, eq=False)
class Trace:
    """The trace of one run.

    Args:
        run: the run's id.
        agent: the agent's name.
        sink: where events go.
        depth: of the run in its tree, the root's is 0.
        last_seq: the number of the last event that is already stored (of an earlier attempt).
        max_events: events beyond this many are left out, visibly.

    Attributes:
        listener: the host's, called with the type and the data of each event, as they were emitted
            (not cleaned), also of those that the log has no room for. From any thread; must not
            block or raise.
        alive_at: the run's last sign of life, on ``time.monotonic()``'s clock: a guarded call has
            begun or ended, a model has said something, or the code has reported progress or logged.
    """

    run: str
    agent: str
    sink: TraceSink
    depth: int = 0
    last_seq: int = 0
    max_events: int = MAX_EVENTS
    usage: Usage = Usage()
    dropped_count: int = 0
    #: Why the host wants no more events, apart from the essential ones; set by ``cut``.
    cut_by: str = ""
    closed: bool = False
    listener: Callable[[str, Mapping[str, Any]], None] | None = None
    alive_at: float = field(default_factory=time.monotonic)
    #: The unfinished printed lines, by stream and thread; ``output`` keeps them here.
    pending_output: dict[tuple[str, int], str] = field(default_factory=dict)
    _emitted: int = 0
    _call_count: int = 0
    _calls: dict[str, CallOnWire] = field(default_factory=dict)
    _texts: dict[str, _StreamedText] = field(default_factory=dict)  # of the calls in flight
    # Reentrant: the garbage collector may run a finaliser that prints or logs while this very
    # thread is writing an event. Its event is written after that one.
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _is_writing: bool = False
    _waiting: list[tuple[str, dict[str, Any], Source, Usage | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._call_count = self.last_seq  # ids of an earlier attempt's calls are not used again

    def emit(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: Source = "system",
        usage: Usage | None = None,
    ) -> Event | None:
        """Number an event and hand it to the sink; count ``usage`` together with it.

        Makes ``data`` fit for JSON, takes secrets out, and cuts long texts. Returns None when it
        left the event out: the trace is closed, and counts nothing more, or it is full.

        Raises:
            ValueError: there is no such type of event.
        """
        if type not in EVENT_TYPES:
            raise ValueError(f"{type!r} is not a type of event: {', '.join(EVENT_TYPES)}")
        if source == "agent" and type in _SIGNS_OF_LIFE:
            self.alive_at = time.monotonic()
        if self.listener is not None:
            self.listener(type, data or {})
        payload: dict[str, Any] = {}
        if data:
            payload = jsonable.clean(
                dict(data), max_string=MAX_STRING, max_total=MAX_DATA, redacting=True
            )
        with self._lock:
            if self._is_writing:
                self._waiting.append((type, payload, source, usage))
                return None
            self._is_writing = True
            try:
                event = self._write(type, payload, source, usage)
                while self._waiting:
                    self._write(*self._waiting.pop(0))
            finally:
                self._is_writing = False
            return event

    def _write(
        self, type: str, data: dict[str, Any], source: Source, usage: Usage | None
    ) -> Event | None:
        if self.closed:
            return None
        if usage is not None:
            self.usage = self.usage.plus(usage)
        is_full = bool(self.cut_by) or self._emitted >= self.max_events
        is_dropped = is_full and type not in _ESSENTIAL
        if is_dropped:
            self.dropped_count += 1
            if self.dropped_count > 1:
                return None
            why = {"quota": self.cut_by} if self.cut_by else {"max_events": self.max_events}
            type, data, source = "truncated", why, "system"
        self.last_seq += 1
        self._emitted += 1
        event = Event(
            self.run, self.last_seq, datetime.now(UTC), type, self.agent, self.depth, source, data
        )
        self.sink.event(event)  # under the lock: a sink sees the events in the order of seq
        return None if is_dropped else event

    def cut(self, quota: str) -> None:
        """Leave out further events, visibly: the host has no room for them. From any thread."""
        self.cut_by = self.cut_by or quota

    def text(self, call: str, text: str) -> None:
        """Pass on a piece of a model's answer; nothing is stored."""
        if self.closed:
            return
        self.alive_at = time.monotonic()
        text = redaction.redact(text)
        with self._lock:
            if call in self._calls:
                self._texts.setdefault(call, _StreamedText()).add(text)
        self.sink.text(self, call, text)

    def texts_after(self, known: Mapping[str, int]) -> dict[str, tuple[int, str]]:
        """Return what was said in the calls in flight after so many characters of each.

        Call -> where it starts, text. The text is empty where nothing is new.
        """
        with self._lock:
            return {
                call: (start := known.get(call, 0), text.after(start))
                for call, text in self._texts.items()
            }

    def text_length(self, call: str) -> int:
        """Return how many characters a call in flight has passed on."""
        with self._lock:
            text = self._texts.get(call)
            return text.length if text is not None else 0

    def begin(self, tool: str, label: str, started_at: datetime) -> str:
        """Note that a call has started; return its id."""
        with self._lock:
            self._call_count += 1
            call = f"{self.run[-12:]}.{self._call_count}"
            self._calls[call] = {
                "call": call,
                "tool": tool,
                "label": jsonable.clean_text(redaction.redact(label), MAX_LABEL),
                "started_at": started_at.isoformat(),
            }
        self.sink.activity(self)
        return call

    def end(self, call: str) -> None:
        """Note that a call has ended."""
        with self._lock:
            self._calls.pop(call, None)
            self._texts.pop(call, None)
        self.sink.activity(self)

    def in_flight(self) -> list[CallOnWire]:
        """Return the calls in flight, oldest first."""
        with self._lock:
            return list(self._calls.values())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no event be written meanwhile: those that the sink has are all that usage counts."""
        with self._lock:
            yield

    def close(self) -> int:
        """Take no more events; return the number of the last one."""
        with self._lock:
            self.closed = True
            return self.last_seq


_trace: ContextVar[Trace | None] = ContextVar("agents_trace", default=None)


def current_trace() -> Trace | None:
    """Return the trace of the run that this code belongs to, None outside any run."""
    return _trace.get()


def bind_trace(trace: Trace) -> Token[Trace | None]:
    """Make ``trace`` the ambient one of this context. Only the runtime does this."""
    return _trace.set(trace)
