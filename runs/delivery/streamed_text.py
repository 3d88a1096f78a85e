"""Streamed text of this process's runs, for readers in other processes.

Streamed text is stored nowhere, so only the process that runs an agent has it. A process whose
readers follow the run asks for the text, and says how much of it it has. For some seconds after
that the text goes to all feeds, as their other messages do; a run that no process has asked for
costs nothing. A group for each run would cost a message for each run: a hundred times as much.

Messages may be lost. Readers' processes repeat their requests, and the committed event of a call
has the whole answer.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agents.trace import Trace

from . import local_runs, relay

__all__ = ["ASK_SECONDS", "ask_readers", "is_wanted", "note", "request"]

ASK_SECONDS = 5.0  # how often a process with readers asks
WANTED_SECONDS = 3 * ASK_SECONDS
COLLECT_SECONDS = 0.08
MOST_CHARACTERS = 100_000  # in one message
MOST_WANTED = 20_000

#: run, agent, call, where in its answer the piece starts, text
_Piece = tuple[str, str, str, int, str]
#: Run -> call -> how many characters of its answer the process that asks has.
Known = Mapping[str, Mapping[str, int]]


def ask_readers() -> None:
    """Have all feeds repeat their requests: this process has just started to listen."""
    relay.send(relay.FEED_GROUP, {"type": "feed.ask", "from": relay.PROCESS}, is_repeated=True)


def request(runs: Known) -> None:
    """Take in that another process asks for the text of runs. From any thread."""
    _texts.request(runs)


def is_wanted(run: str) -> bool:
    """Tell whether another process has asked for the text of a run. From any thread."""
    return _texts.is_wanted(run)


def note(run: str) -> None:
    """Note that a run has new text. From any thread; costs nothing if no process has asked."""
    if _texts.is_wanted(run):
        _texts.send_soon((run,))


@dataclass(slots=True)
class _Wanted:
    until: float
    sent: dict[str, int]  # call -> how many characters of its answer were sent


class _Texts:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}
        self._fresh: dict[str, None] = {}  # runs that may have something to send
        self._is_due = False

    def is_wanted(self, run: str) -> bool:
        return run in self._wanted

    def request(self, runs: Known) -> None:
        now = time.monotonic()
        with self._lock:
            for run in [run for run, wanted in self._wanted.items() if wanted.until <= now]:
                del self._wanted[run]  # of a run that is silent, or was over
            for run, known in runs.items():
                wanted = self._wanted.get(run)
                if wanted is not None:  # what one process lacks is sent to all; the others skip it
                    wanted.until = now + WANTED_SECONDS
                    wanted.sent = {
                        call: min(count, known.get(call, 0)) for call, count in wanted.sent.items()
                    }
                elif len(self._wanted) < MOST_WANTED:
                    self._wanted[run] = _Wanted(now + WANTED_SECONDS, dict(known))
        self.send_soon(runs, seconds=0.0)

    def send_soon(self, runs: Iterable[str], seconds: float = COLLECT_SECONDS) -> None:
        with self._lock:
            self._fresh |= dict.fromkeys(runs)
            if self._is_due or not self._fresh:
                return
            self._is_due = True
        relay.call_later(seconds, self._send)

    def _send(self) -> None:
        """Send what is new, and what does not fit a little later. In the relay's thread."""
        with self._lock:
            self._is_due = False
            runs, self._fresh = self._fresh, {}
        pieces: list[_Piece] = []
        left = []
        room = MOST_CHARACTERS
        for run in runs:
            trace = _trace(run)
            if trace is None:
                continue  # not here, or not any more
            new, is_all = self._take(trace, room)
            room -= sum(len(text) for *_, text in new)
            pieces += new
            if not is_all:
                left.append(run)
        if pieces:
            message = {"type": "feed.text", "from": relay.PROCESS, "pieces": pieces}
            relay.send(relay.FEED_GROUP, message)
        self.send_soon(left)

    def _take(self, trace: Trace, room: int) -> tuple[list[_Piece], bool]:
        """Return up to ``room`` characters of new text, and whether that is all."""
        with self._lock:
            wanted = self._wanted.get(trace.run)
            if wanted is None:
                return [], True
            if wanted.until <= time.monotonic():
                del self._wanted[trace.run]
                return [], True
            found = trace.texts_after(wanted.sent)
            wanted.sent = {}  # of the calls that are still in flight
            pieces: list[_Piece] = []
            is_all = True
            for call, (start, text) in found.items():
                piece = text[:room]
                room -= len(piece)
                is_all = is_all and len(piece) == len(text)
                wanted.sent[call] = start + len(piece)
                if piece:
                    pieces.append((trace.run, trace.agent, call, start, piece))
            return pieces, is_all


def _trace(run: str) -> Trace | None:
    entry = local_runs.get(uuid.UUID(run))
    return entry.guard.trace if entry is not None and entry.guard is not None else None


_texts = _Texts()
