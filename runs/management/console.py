"""The terminal's view of a tree of runs: plain lines, grouped by agent.

It takes events and updates, knows neither workers nor the database, and must be used from one
thread, outside any run: what agents print goes to their logs, and so would its own lines.
"""

from __future__ import annotations

import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TextIO

import rich.console
from django.utils import timezone
from rich.text import Text

from runs.management.log_words import event_lines
from runs.status import TERMINAL, Status
from runs.wording.stop import stopping_text, waiting_detail
from runs.wording.time import clock, duration, seconds_between

__all__ = ["Console", "printable"]

TEXT_DELAY_SECONDS = 0.15
PROGRESS_SECONDS = 1.0  # between two lines of progress
SETTLE_SECONDS = 1.0  # how long a stopping run is between two calls before that is worth a line
TEXT_WIDTH = 88

_STYLES: Final[dict[str, str]] = {
    "waiting": "dim",
    "active": "cyan",
    "muted": "bright_black",
    "good": "green",
    "bad": "red",
    "warning": "yellow",
    "plain": "",
    "dim": "dim",
}
#: Escape sequences in what models and agents write could move the cursor, or worse.
_CONTROLS: Final = {
    code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}


def printable(text: object) -> str:
    """Return text without the control characters that a terminal would obey."""
    return str(text).replace("\r\n", "\n").translate(_CONTROLS)


@dataclass(slots=True, eq=False)
class _Shown:
    """One run of the tree, as far as it is known."""

    id: str
    name: str
    agent: str
    depth: int
    status: str = Status.QUEUED
    started_at: datetime | None = None
    in_flight: Sequence[Mapping[str, Any]] = ()
    progress_shown_at: float = 0.0
    stop: dict[str, Any] | None = None  # of a stop request: a shutdown is none
    observed_at: str | None = None
    stop_words: str = ""
    stop_since: float = 0.0
    writing: dict[str, _Writing] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_stopping(self) -> bool:
        return self.stop is not None and not self.is_over

    def as_wire(self) -> dict[str, Any]:
        stop = self.stop and {**self.stop, "observed_at": self.observed_at}
        return {"in_flight": self.in_flight, "stop": stop}


@dataclass(slots=True)
class _Writing:
    """The text of a call to a model, as it comes."""

    line: str = ""  # not yet shown

    def add(self, text: str) -> list[str]:
        """Return the lines that are full now."""
        *lines, self.line = (self.line + text).split("\n")
        full = [part for line in lines for part in (_wrapped(line) or [""])]
        while len(self.line) > TEXT_WIDTH:
            head = textwrap.wrap(self.line, TEXT_WIDTH, drop_whitespace=False)[0]
            full.append(head.rstrip())
            self.line = self.line[len(head) :].lstrip(" ")
        return full

    def rest(self) -> list[str]:
        return _wrapped(self.line)


class _RichConsole(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Continue in silence: the reader left, and the run must not suffer from that."""
        self.quiet = True


class Console:
    """Shows one tree of runs.

    Args:
        stream: gets the lines; with colours if it is a terminal.
        verbosity: 0 shows only the progress of a stop, and the end; 2 adds tracebacks.
    """

    def __init__(self, stream: TextIO, *, verbosity: int = 1) -> None:
        self._rich = _RichConsole(
            file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._is_quiet = verbosity == 0
        self._is_verbose = verbosity > 1
        self._runs: dict[str, _Shown] = {}
        self._early: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._texts: deque[tuple[float, str, str, str]] = deque()  # when, run, call, text
        self._speaker = ""

    def say(self, text: str, tone: str = "plain") -> None:
        """Print a line of the command's own."""
        self._speaker = ""
        self._print(Text(printable(text), style=_STYLES[tone]))

    def event(self, event: Mapping[str, Any]) -> None:
        """Take a line of a run's log, as it goes over the wire."""
        run = self._run(event)
        data = event["data"]
        match event["type"]:
            case "agent_start":
                run.status = Status.RUNNING
                run.started_at = datetime.fromisoformat(event["ts"])
            case "llm_call":
                self._show_texts(lambda since, of, call: call == data.get("call"))
            case "stop_requested":
                # Its worker writes this when it has tripped the token.
                run.stop = {"acknowledged_at": event["ts"]}
            case "stop_observed":
                run.observed_at = event["ts"]
            case "agent_end":
                run.status = data["status"]
                run.in_flight = ()
                run.writing.clear()
        if not self._is_quiet:
            for line, tone in self._lines(run, event):
                self._print_of(run, event["ts"], line, tone)

    def activity(self, run: str, in_flight: Sequence[Mapping[str, Any]]) -> None:
        """Take what is in flight in a run now."""
        shown = self._runs.get(run)
        if shown is None:  # its first event is still being stored
            self._early[run] = in_flight
        elif not shown.is_over:
            shown.in_flight = in_flight

    def text(self, run: str, call: str, text: str) -> None:
        """Take a piece of a model's answer.

        It is held back for a moment: text comes at once, events when they are stored, and what
        was before it is to be read before it.
        """
        if not self._is_quiet:
            self._texts.append((time.monotonic(), run, call, text))

    def asked_to_stop(self, run: Mapping[str, Any], *, acknowledged_at: str | None) -> None:
        """Take what a run's record says about its stop, before its log does.

        ``run`` has what each event says of its run: ``run``, ``agent``, ``depth``.
        """
        shown = self._run(run)
        if not (shown.stop or {}).get("acknowledged_at"):
            shown.stop = {"acknowledged_at": acknowledged_at}

    def tick(self) -> None:
        """Bring what is shown up to date; to be called several times a second."""
        now = time.monotonic()
        self._show_texts(lambda since, run, call: now - since >= TEXT_DELAY_SECONDS)
        self._show_stopping()

    def _show_texts(self, is_due: Callable[[float, str, str], bool]) -> None:
        held: deque[tuple[float, str, str, str]] = deque()
        for since, run, call, text in self._texts:
            shown = self._runs.get(run)
            if shown is None or not is_due(since, run, call):
                held.append((since, run, call, text))
            elif not shown.is_over:
                for line in shown.writing.setdefault(call, _Writing()).add(printable(text)):
                    self._print_of(shown, timezone.now(), f"│ {line}", "dim")
        self._texts = held

    def _run(self, event: Mapping[str, Any]) -> _Shown:
        id = event["run"]
        if id not in self._runs:
            agent = printable(event["agent"])
            same = sum(run.agent == agent for run in self._runs.values())
            name = f"{agent} ({same + 1})" if same else agent
            in_flight = self._early.pop(id, ())
            self._runs[id] = _Shown(id, name, agent, event["depth"], in_flight=in_flight)
        return self._runs[id]

    def _lines(self, run: _Shown, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Say an event in lines of (text, tone)."""
        data = event["data"]
        match event["type"]:
            case "llm_call":
                writing = run.writing.pop(data.get("call"), None)
                for line in writing.rest() if writing else ():
                    yield f"│ {line}", "dim"
                yield from event_lines(event)
                text = data.get("text") or ""
                if writing is None and text:
                    for line in _wrapped(printable(text).strip()):
                        yield f"│ {line}", "dim"
            case "progress":
                if self._may_show_progress(run):
                    yield from event_lines(event)
            case "error":
                yield from event_lines(event)
                if self._is_verbose:
                    for line in str(data.get("traceback", "")).splitlines():
                        yield line, "dim"
            case "agent_end":
                took = ""
                if run.started_at is not None:
                    since = seconds_between(run.started_at, event["ts"])
                    took = f" · {duration(since)}"
                for line, tone in event_lines(event):
                    yield f"{line}{took}", tone
            case _:
                yield from event_lines(event)

    def _may_show_progress(self, run: _Shown) -> bool:
        now = time.monotonic()
        if now - run.progress_shown_at < PROGRESS_SECONDS:
            return False
        run.progress_shown_at = now
        return True

    def _print_of(self, run: _Shown, at: datetime | str, line: str, tone: str) -> None:
        """Print a line of a run, under its name if the line before was another's."""
        indent = "  " * run.depth
        at_clock = clock(at)
        if self._speaker != run.id:
            self._speaker = run.id
            self._print(Text(f"{at_clock}  {indent}▸ {run.name}", style="bold"))
        text = Text(f"{at_clock}  {indent}  ", style="dim")
        text.append(printable(line), style=_STYLES[tone] or "not dim")
        self._print(text)

    def _show_stopping(self) -> None:
        """Print what stopping runs wait for: a line for each change of it."""
        now = time.monotonic()
        for run in self._stopping():
            words = stopping_text(run.as_wire())
            if words == run.stop_words:
                continue
            if not run.in_flight and run.stop_words:
                run.stop_since = run.stop_since or now
                if now - run.stop_since < SETTLE_SECONDS:
                    continue  # it is between two calls, or about to end
            run.stop_since = 0.0
            run.stop_words = words
            self._print_of(run, timezone.now(), self._stopping_line(run), "muted")

    def _stopping(self) -> list[_Shown]:
        return [run for run in self._runs.values() if run.is_stopping]

    def _stopping_line(self, run: _Shown) -> str:
        wire = run.as_wire()
        detail = waiting_detail(wire, timezone.now())
        words = stopping_text(wire)
        return f"{words} {detail}" if detail else words

    def _print(self, text: Text) -> None:
        self._rich.print(text)


def _wrapped(text: str) -> list[str]:
    return [part for line in text.split("\n") for part in (textwrap.wrap(line, TEXT_WIDTH) or [""])]
