"""Who in other processes watches runs of this one, and the streamed text that they are sent.

Streamed text is stored nowhere, so only the process that runs an agent has it. A process with
readers says every few seconds whose; the one that has the run sends the text there while it is
asked for. Whoever ceases to ask is forgotten, so nobody has to say good-bye.

All of it may be lost: who says again what it watches is told how far each answer has come, a reader
that finds a piece missing asks for the whole, and the committed event of a call has everything that
was said in it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agents.trace import Trace

from . import local_runs, relay

__all__ = [
    "ASK_SECONDS",
    "Piece",
    "ask_who_watches",
    "hear_of_watching",
    "is_watched",
    "note_text",
    "text_group",
]

ASK_SECONDS = 5.0  # how often whoever watches says so
FORGET_SECONDS = 3 * ASK_SECONDS
COLLECT_SECONDS = 0.08
MOST_CHARACTERS = 100_000  # in one message, and to one process at a time
MOST_WATCHED = 20_000

#: run, agent, call, where in the answer it begins, text
Piece = tuple[str, str, str, int, str]


def text_group(process: str) -> str:
    """Return the name of the group in which a process hears text of others' runs."""
    return f"{relay.FEED_GROUP}.{process}"


def ask_who_watches() -> None:
    """Ask all feeds to say at once what they watch: this process has just begun to listen."""
    relay.send(relay.FEED_GROUP, {"type": "feed.ask", "from": relay.PROCESS}, is_repeated=True)


def hear_of_watching(message: dict[str, Any]) -> None:
    """Take in what a process watches: {"from": process, "runs": [id], "anew": [id]}.

    ``anew`` are those of which it has no text yet, or has missed some. From any thread.
    """
    _audience.hear(message["from"], message.get("runs", ()), message.get("anew", ()))


def is_watched(run: str) -> bool:
    """Tell whether another process watches a run. From any thread."""
    return _audience.has(run)


def note_text(run: str) -> None:
    """There is new text of a run. From any thread; costs nothing if nobody watches."""
    if _audience.has(run):
        _audience.note((run,))


@dataclass(slots=True)
class _Watch:
    """One process that watches one run."""

    until: float = 0.0
    is_anew: bool = True
    is_due: bool = True  # has just said that it watches: it is told where each answer stands
    told: dict[str, int] = field(default_factory=dict)  # call -> so far it knows the answer


class _Audience:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[str, dict[str, _Watch]] = {}  # run -> process -> its watch
        self._fresh: dict[str, None] = {}  # runs of which there may be something to tell
        self._is_due = False
        self._is_forgetting = False

    def has(self, run: str) -> bool:
        return run in self._watches

    def hear(self, process: str, runs: Iterable[str], anew: Iterable[str]) -> None:
        until = time.monotonic() + FORGET_SECONDS
        with self._lock:
            for run, is_anew in [*((run, False) for run in runs), *((run, True) for run in anew)]:
                if run not in self._watches and len(self._watches) >= MOST_WATCHED:
                    continue
                watch = self._watches.setdefault(run, {}).setdefault(process, _Watch())
                watch.until = until
                watch.is_anew = watch.is_anew or is_anew
                watch.is_due = True
                self._fresh[run] = None
            if self._watches and not self._is_forgetting:
                self._is_forgetting = True
                relay.call_later(FORGET_SECONDS, self._forget)
        self.note((), seconds=0.0)

    def note(self, runs: Iterable[str], seconds: float = COLLECT_SECONDS) -> None:
        with self._lock:
            self._fresh |= dict.fromkeys(runs)
            if self._is_due or not self._fresh:
                return
            self._is_due = True
        relay.call_later(seconds, self._tell)

    def _tell(self) -> None:
        """Send what is new. In the relay's thread alone."""
        now = time.monotonic()
        with self._lock:
            self._is_due = False
            runs, self._fresh = self._fresh, {}
            watches = [
                (run, process, watch)
                for run in runs
                for process, watch in self._watches.get(run, {}).items()
                if watch.until > now
            ]
        pieces: dict[str, list[Piece]] = {}
        room: dict[str, int] = {}
        unfinished = []
        for run, process, watch in watches:
            left = room.get(process, MOST_CHARACTERS)
            found, is_all = _pieces(run, watch, left)
            pieces.setdefault(process, []).extend(found)
            room[process] = left - sum(len(text) for *_, text in found)
            if not is_all:
                unfinished.append(run)
        for process, some in pieces.items():
            if some:
                message = {"type": "feed.text", "from": relay.PROCESS, "pieces": some}
                relay.send(text_group(process), message)
        self.note(unfinished)

    def _forget(self) -> None:
        """Forget those who have ceased to ask."""
        now = time.monotonic()
        with self._lock:
            for run, watches in list(self._watches.items()):
                left = {name: watch for name, watch in watches.items() if watch.until > now}
                if left:
                    self._watches[run] = left
                else:
                    del self._watches[run]
            self._is_forgetting = bool(self._watches)
            if self._is_forgetting:
                relay.call_later(FORGET_SECONDS, self._forget)


def _pieces(run: str, watch: _Watch, room: int) -> tuple[list[Piece], bool]:
    """Return what a watch is to be told of a run, and whether that is all."""
    trace = _trace(run)
    if trace is None:
        return [], True  # not here, or not any more
    if watch.is_anew:
        watch.is_anew = False
        watch.told.clear()
    is_due, watch.is_due = watch.is_due, False
    pieces: list[Piece] = []
    told: dict[str, int] = {}  # of the calls that are going on
    is_all = True
    for call, (start, text) in trace.texts_behind(watch.told).items():
        piece = text[: max(0, room)]
        is_all = is_all and len(piece) == len(text)
        room -= len(piece)
        told[call] = start + len(piece)
        # An empty piece says how far the answer has come, to whom the last one never came.
        if piece or (is_due and start):
            pieces.append((run, trace.agent, call, start, piece))
    watch.told = told
    return pieces, is_all


def _trace(run: str) -> Trace | None:
    entry = local_runs.get(uuid.UUID(run))
    return entry.guard.trace if entry is not None and entry.guard is not None else None


_audience = _Audience()
