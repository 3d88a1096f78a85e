"""The terminal's view of a tree of runs: a log grouped by agent, and what is going on now.

On a terminal the log scrolls and below it stands, always up to date, who works at what; elsewhere
(a pipe, a file) everything comes in plain lines. It is fed with events and news, knows neither
workers nor the database, and must be used from one thread, outside any run: what agents print goes
to their logs, and so would what is printed in their name.
"""

from __future__ import annotations

import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TextIO

import rich.console
from django.utils import timezone
from rich.live import Live
from rich.text import Text

from runs.management.log_words import event_lines, progress_bar, progress_words, tool_words
from runs.status import STOPPING, TERMINAL, Status
from runs.wording import phrases

__all__ = ["Console", "printable"]

REFRESH_SECONDS = 0.1
TEXT_DELAY_SECONDS = 0.15
PROGRESS_SECONDS = 1.0  # between two lines of progress, where lines stay
SETTLE_SECONDS = 1.0  # how long a stopping run is between two calls before that is worth a line
TEXT_WIDTH = 88
REPLY_LINES = 3  # of a reply that was shown while it came

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
    progress: Mapping[str, Any] | None = None
    progress_told: float = 0.0
    stop: dict[str, Any] | None = None  # only if somebody wished it: a shutdown is none
    observed_at: str | None = None
    stop_told: str = ""
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

    tail: str = ""
    line: str = ""  # not yet told

    def add(self, text: str) -> list[str]:
        """Return the lines that are full now."""
        self.tail = (self.tail + text)[-1000:]
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
        """Go on in silence: nobody looks any more, and the run is not to suffer from that."""
        self.quiet = True


class Console:
    """Shows one tree of runs.

    Args:
        stream: where to; a terminal gets a display that is kept up to date.
        verbosity: 0 shows only how it goes on with a stop, and the end; 2 shows replies and
            tracebacks in full.
    """

    def __init__(self, stream: TextIO, *, verbosity: int = 1) -> None:
        self._rich = _RichConsole(
            file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._is_quiet = verbosity == 0
        self._is_verbose = verbosity > 1
        self._is_live = self._rich.is_terminal and not self._rich.is_dumb_terminal
        self._live: Live | None = None
        self._refreshed = 0.0
        self._runs: dict[str, _Shown] = {}
        self._early: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._texts: deque[tuple[float, str, str, str]] = deque()  # when, run, call, text
        self._speaker = ""

    def open(self) -> None:
        if self._is_live and not self._is_quiet:
            self._live = Live(
                console=self._rich,
                auto_refresh=False,
                transient=True,
                # Agents' output is captured by replacing these streams; they are not ours to touch.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def close(self) -> None:
        """Take the live part away; the log stays. Idempotent."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def say(self, text: str, tone: str = "plain") -> None:
        """Print a line of the command's own."""
        self._speaker = ""
        self._print(Text(printable(text), style=_STYLES[tone]))

    # News.

    def event(self, event: Mapping[str, Any]) -> None:
        """Take a line of a run's log, as it goes over the wire."""
        run = self._run(event)
        data = event["data"]
        match event["type"]:
            case "agent_start":
                run.status = Status.RUNNING
                run.started_at = datetime.fromisoformat(event["ts"])
            case "progress":
                run.progress = data
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
        self._tell_stopping()
        if self._live is not None and now - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = now
            self._live.update(self._region(), refresh=True)

    def _show_texts(self, is_due: Callable[[float, str, str], bool]) -> None:
        held: deque[tuple[float, str, str, str]] = deque()
        for since, run, call, text in self._texts:
            shown = self._runs.get(run)
            if shown is None or not is_due(since, run, call):
                held.append((since, run, call, text))
            elif not shown.is_over:
                lines = shown.writing.setdefault(call, _Writing()).add(printable(text))
                if not self._is_live:
                    self._print_reply(shown, lines)
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

    # The log.

    def _lines(self, run: _Shown, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Say an event in lines of (text, tone)."""
        data = event["data"]
        match event["type"]:
            case "llm_call":
                yield from self._rest_of_reply(run, data)
                yield from event_lines(event)
                if self._is_live or data.get("call") not in run.writing:
                    for line in self._excerpt(data.get("text") or ""):
                        yield f"│ {line}", "dim"
                run.writing.pop(data.get("call"), None)
            case "progress":
                if self._may_tell_progress(run):
                    yield from event_lines(event)
            case "error":
                yield from event_lines(event)
                if self._is_verbose:
                    for line in str(data.get("traceback", "")).splitlines():
                        yield line, "dim"
            case "agent_end":
                took = ""
                if run.started_at is not None:
                    since = phrases.seconds_between(run.started_at, event["ts"])
                    took = f" · {phrases.duration(since)}"
                for line, tone in event_lines(event):
                    yield f"{line}{took}", tone
            case _:
                yield from event_lines(event)

    def _rest_of_reply(self, run: _Shown, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        writing = run.writing.get(data.get("call", ""))
        if writing is not None and not self._is_live:
            for line in writing.rest():
                yield f"│ {line}", "dim"

    def _excerpt(self, text: str) -> list[str]:
        lines = _wrapped(printable(text).strip()) if text else []
        if not self._is_live or self._is_verbose or len(lines) <= REPLY_LINES:
            return lines
        return [*lines[: REPLY_LINES - 1], f"{lines[REPLY_LINES - 1]} ..."]

    def _may_tell_progress(self, run: _Shown) -> bool:
        now = time.monotonic()
        if self._live is not None or now - run.progress_told < PROGRESS_SECONDS:
            return False
        run.progress_told = now
        return True

    def _print_reply(self, run: _Shown, lines: Iterable[str]) -> None:
        for line in lines:
            self._print_of(run, timezone.now(), f"│ {line}", "dim")

    def _print_of(self, run: _Shown, at: datetime | str, line: str, tone: str) -> None:
        """Print a line of a run, under its name if another one had the word before."""
        indent = "  " * run.depth
        clock = phrases.clock(at)
        if self._speaker != run.id:
            self._speaker = run.id
            self._print(Text(f"{clock}  {indent}▸ {run.name}", style="bold"))
        text = Text(f"{clock}  {indent}  ", style="dim")
        text.append(printable(line), style=_STYLES[tone] or "not dim")
        self._print(text)

    def _tell_stopping(self) -> None:
        """Say what stopping runs wait for: a line for each change of it."""
        now = time.monotonic()
        for run in self._stopping():
            words = phrases.stopping_text(run.as_wire())
            if words == run.stop_told:
                continue
            if not run.in_flight and run.stop_told:
                run.stop_since = run.stop_since or now
                if now - run.stop_since < SETTLE_SECONDS:
                    continue  # most likely it is between two calls, or about to end
            run.stop_since = 0.0
            run.stop_told = words
            if self._live is None:
                self._print_of(run, timezone.now(), self._stopping_line(run), "muted")

    def _stopping(self) -> list[_Shown]:
        return [run for run in self._runs.values() if run.is_stopping]

    def _stopping_line(self, run: _Shown) -> str:
        wire = run.as_wire()
        detail = phrases.waiting_detail(wire, timezone.now())
        words = phrases.stopping_text(wire)
        return f"{words} {detail}" if detail else words

    # What is going on now.

    def _region(self) -> Text:
        lines: list[Text] = []
        now = timezone.now()
        for run in self._runs.values():
            if not run.is_over:
                lines += self._now(run, now)
        room = max(3, self._rich.height // 2)
        if len(lines) > room:
            left_out = len(lines) - room + 1
            lines = [*lines[: room - 1], Text(f"... and {left_out} lines more", style="dim")]
        for line in lines:
            line.truncate(self._rich.width - 1, overflow="ellipsis")
        return Text("\n").join(lines)

    def _now(self, run: _Shown, now: datetime) -> Iterator[Text]:
        indent = "  " * run.depth
        look = phrases.look(STOPPING if run.stop is not None else run.status)
        since = phrases.seconds_between(run.started_at, now) if run.started_at else 0
        line = Text(f"{indent}{look.sign} ", style=_STYLES[look.tone])
        line.append(run.name, style="bold")
        line.append(f"  {phrases.duration(since)}", style="dim")
        if run.progress is not None:
            line.append(f"  {progress_bar(run.progress)}{printable(progress_words(run.progress))}")
        yield line
        if run.stop is not None:
            yield Text(f"{indent}  {printable(self._stopping_line(run))}", style=_STYLES["muted"])
        for call in run.in_flight:
            yield self._call_now(run, call, indent, now)

    def _call_now(self, run: _Shown, call: Mapping[str, Any], indent: str, now: datetime) -> Text:
        since = phrases.duration(phrases.seconds_between(call["started_at"], now))
        words = printable(f"{indent}    {tool_words(call['tool'])} {call['label']}  {since}")
        line = Text(words, style="dim")
        writing = run.writing.get(call["call"])
        if writing is not None and writing.tail.strip():
            tail = " ".join(writing.tail.split())
            room = max(20, self._rich.width - len(words) - 14)
            line.append(f"  writing: {tail[-room:]}", style="not dim")
        return line

    def _print(self, text: Text) -> None:
        self._rich.print(text)


def _wrapped(text: str) -> list[str]:
    return [part for line in text.split("\n") for part in (textwrap.wrap(line, TEXT_WIDTH) or [""])]
