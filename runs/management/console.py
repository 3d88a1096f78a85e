"""The terminal's view of a tree of runs: plain lines, grouped by agent.

It knows only the frames of a feed. Use it in one thread, outside any run: agents' output goes to
their logs.
"""

from __future__ import annotations

import textwrap
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, TextIO

import rich.console
from django.utils import timezone
from rich.text import Text

from runs.management.log_words import event_lines
from runs.wording.directions import DIRECTIONS
from runs.wording.run import WaitingWords
from runs.wording.time import clock, duration, seconds_between

__all__ = ["Console", "printable"]

HOLD_SECONDS = 0.15
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
_REPLACED: Final = "\ufffd"


class _Signs(dict[int, str]):
    """What to print for a character, for ``str.translate``: most stand for themselves."""

    def __missing__(self, code: int) -> str:
        self[code] = sign = self._sign(code)
        return sign

    def _sign(self, code: int) -> str:
        match unicodedata.category(chr(code)):
            case "Cc" if code not in (9, 10):
                return _REPLACED  # an escape sequence could move the cursor, or worse
            case "Zl" | "Zp" | "Cs":
                return _REPLACED  # separators that some terminals obey; half a character
            case "Cf":  # invisible
                return _REPLACED if code in DIRECTIONS else ""
            case _:
                return chr(code)


_SIGNS: Final = _Signs()


def printable(text: object) -> str:
    """Return what agents, models or users wrote without what a terminal would obey.

    Control characters and those that turn the direction become U+FFFD, other invisible ones go.
    """
    return str(text).replace("\r\n", "\n").translate(_SIGNS)


@dataclass(slots=True, eq=False)
class _Shown:
    """One run of the tree."""

    name: str
    agent: str
    depth: int
    started_at: str = ""
    is_over: bool = False
    progress_shown_at: float = 0.0
    waiting: WaitingWords | None = None  # while stopping
    waiting_shown: str = ""
    waiting_shown_until: float = 0.0
    #: By call: the text of a model so far, and how much of it is not a whole line yet.
    writing: dict[str, tuple[str, str]] = field(default_factory=dict)


class _Held(NamedTuple):
    at: datetime
    received: float
    run: str
    frame: Mapping[str, Any]  # an event, or a piece of text


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
        self._held: list[_Held] = []
        self._speaker = ""

    def say(self, text: str, tone: str = "plain") -> None:
        """Print a line of the command's own."""
        self._speaker = ""
        self._emit(Text(printable(text), style=_STYLES[tone]))

    def take(self, frame: Mapping[str, Any]) -> None:
        """Take a frame of a page's feed of a tree. The first of each run is a snapshot.

        Events and text are held for a moment, to be printed in order: text comes at once, events
        when they are stored, and those of a new run when the feed has found it.
        """
        match frame["type"]:
            case "run" | "end":
                self._run(frame["run"]).waiting = frame["words"]["waiting"]
            case "activity":
                self._runs[frame["run"]].waiting = frame["words"]["waiting"]
            case "trace" if not self._is_quiet:
                event = frame["event"]
                self._hold(datetime.fromisoformat(event["ts"]), event["run"], event)
            case "text" if not self._is_quiet:
                self._hold(timezone.now(), frame["run"], frame)

    def tick(self) -> None:
        """Print what is due; to be called several times a second."""
        self._print_held(time.monotonic() - HOLD_SECONDS)
        self._print_waiting()

    def flush(self) -> None:
        """Print what is held, at the end."""
        self._print_held(time.monotonic())

    def _run(self, run: Mapping[str, Any]) -> _Shown:
        if run["id"] not in self._runs:
            caller = self._runs.get(run["parent"])
            agent = printable(run["agent"])
            same = sum(one.agent == agent for one in self._runs.values())
            name = f"{agent} ({same + 1})" if same else agent
            self._runs[run["id"]] = _Shown(name, agent, caller.depth + 1 if caller else 0)
        return self._runs[run["id"]]

    def _hold(self, at: datetime, run: str, frame: Mapping[str, Any]) -> None:
        self._held.append(_Held(at, time.monotonic(), run, frame))

    def _print_held(self, received_by: float) -> None:
        self._held.sort(key=lambda held: held.at)
        while any(held.received <= received_by for held in self._held):
            at, _, run, frame = self._held.pop(0)
            lines = self._text(run, frame) if frame["type"] == "text" else self._lines(run, frame)
            for line, tone in lines:
                self._print(run, at, line, tone)

    def _text(self, run: str, frame: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the lines that a piece of a model's answer completes."""
        shown, call = self._runs[run], frame["call"]
        if not shown.is_over:
            streamed, rest = shown.writing.get(call, ("", ""))
            *lines, rest = _wrapped(rest + printable(frame["text"]))
            shown.writing[call] = (streamed + frame["text"], rest)
            for line in lines:
                yield f"│ {line}", "dim"

    def _lines(self, run: str, event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Say an event in lines of (text, tone)."""
        shown, data = self._runs[run], event["data"]
        match event["type"]:
            case "agent_start":
                shown.started_at = event["ts"]
                yield from event_lines(event)
            case "llm_call":
                call = data.get("call")
                for held in [held for held in self._held if held.frame.get("call", "") == call]:
                    self._held.remove(held)
                    yield from self._text(run, held.frame)
                streamed, rest = shown.writing.pop(call, ("", ""))
                text = data.get("text") or ""
                if streamed and text.startswith(streamed):
                    rest += printable(text[len(streamed) :])  # which did not come in time
                for line in _wrapped(rest) if rest else ():
                    yield f"│ {line}", "dim"
                yield from event_lines(event)
                for line in _wrapped(printable(text).strip()) if text and not streamed else ():
                    yield f"│ {line}", "dim"
            case "progress":
                now = time.monotonic()
                if now - shown.progress_shown_at >= PROGRESS_SECONDS:
                    shown.progress_shown_at = now
                    yield from event_lines(event)
            case "error":
                yield from event_lines(event)
                if self._is_verbose:
                    for line in str(data.get("traceback", "")).splitlines():
                        yield line, "dim"
            case "agent_end":
                shown.is_over = True
                took = ""
                if shown.started_at:
                    took = f" · {duration(seconds_between(shown.started_at, event['ts']))}"
                for line, tone in event_lines(event):
                    yield f"{line}{took}", tone
            case _:
                yield from event_lines(event)

    def _print(self, run: str, at: datetime, line: str, tone: str) -> None:
        """Print a line of a run, under its name if the line before was another's."""
        shown = self._runs[run]
        indent = "  " * shown.depth
        if self._speaker != run:
            self._speaker = run
            self._emit(Text(f"{clock(at)}  {indent}▸ {shown.name}", style="bold"))
        # Each line has its own start: a line break in a message begins no line of the command's.
        for part in printable(line).split("\n"):
            text = Text(f"{clock(at)}  {indent}  ", style="dim")
            text.append(part, style=_STYLES[tone] or "not dim")
            self._emit(text)

    def _emit(self, text: Text) -> None:
        try:
            self._rich.print(text)
        except (OSError, ValueError):  # a full disk, a closed stream, a sign that it can't encode
            self._rich.quiet = True  # in silence: the run must not suffer from that

    def _print_waiting(self) -> None:
        """Print what stopping runs wait for: a line for each change of it."""
        now = time.monotonic()
        for id, run in self._runs.items():
            waiting = run.waiting
            if waiting is None or waiting["text"] == run.waiting_shown:
                run.waiting_shown_until = now
                continue
            since = waiting["since"]
            if run.waiting_shown and not since and now - run.waiting_shown_until < SETTLE_SECONDS:
                continue  # it is between two calls, or about to end
            run.waiting_shown, run.waiting_shown_until = waiting["text"], now
            took = duration(seconds_between(since, timezone.now())) if since else ""
            detail = ", ".join(part for part in (waiting["label"], took) if part)
            self._print(id, timezone.now(), f"{waiting['text']} {detail}".rstrip(), "muted")


def _wrapped(text: str) -> list[str]:
    """Cut text into lines; more text may follow the last one."""
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, TEXT_WIDTH) or [""]]
    lines[-1] += text[len(text.rstrip(" ")) :]
    return lines
