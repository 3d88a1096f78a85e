"""What the feeds of other processes are sent: that a run has something new, and streamed text.

Updates are collected for a moment, and say only which runs have something new: a feed with readers
of the run reads the table. So one message holds many updates, and it does not matter in which order
messages come, or whether they come at all.

Streamed text is stored nowhere, so only the process that runs an agent has it. A process whose
readers follow the run asks for the text, and says how much of it it has. For some seconds after
that the text goes to all feeds; a run that no process has asked for costs nothing. A group for each
run would cost a message for each run: a hundred times as much. A lost message costs little: the
readers' processes repeat their requests, and the committed event of a call has the whole answer.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from agents.trace import Event
from agents.wire import CallOnWire

from . import relay
from .local_runs import trace_of
from .messages import FeedText, FeedUpdates, Known, Piece
from .relay import FEED_GROUP

__all__ = ["ASK_SECONDS", "FeedSender", "sender"]

COLLECT_SECONDS = 0.02
MOST_RUNS = 500  # in one message; the feeds find the others by polling
ASK_SECONDS = 5.0  # how often a process with readers asks
WANTED_SECONDS = 3 * ASK_SECONDS
COLLECT_TEXT_SECONDS = 0.08
MOST_CHARACTERS = 100_000  # in one message
MOST_WANTED = 20_000


@dataclass(slots=True)
class _Wanted:
    until: float
    sent: dict[str, int]  # call -> how many characters of its answer were sent


class FeedSender:
    """A ``notify.Listener`` for the feeds of other processes.

    Attributes:
        dropped_count: how many updates found no room in a message.
    """

    def __init__(self) -> None:
        self.dropped_count = 0
        self._lock = threading.Lock()
        self._changed: dict[str, str] = {}  # run -> root
        self._logs: set[str] = set()
        self._wanted: dict[str, _Wanted] = {}
        self._fresh: dict[str, None] = {}  # runs that may have text to send

    # In any thread.

    def event(self, event: Event) -> None:
        self.tell_of_log(event.run)

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        with self._lock:
            self._changed[str(run)] = str(root)
        relay.outbox.call_later(COLLECT_SECONDS, self._send_updates)

    def activity(self, run: str, in_flight: list[CallOnWire]) -> None:
        """Send nothing before it is committed (``notify.publish_progress``)."""

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        if run in self._wanted:
            self._send_texts_soon((run,))

    def tell_of_log(self, run: str) -> None:
        """Send soon that a run has new events."""
        with self._lock:
            self._logs.add(run)
        relay.outbox.call_later(COLLECT_SECONDS, self._send_updates)

    def is_wanted(self, run: str) -> bool:
        """Tell whether another process has asked for the text of a run."""
        return run in self._wanted

    def request(self, runs: Known) -> None:
        """Send the text of runs from now on, for another process that asks for it."""
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
        self._send_texts_soon(runs, seconds=0.0)

    def _send_texts_soon(self, runs: Iterable[str], seconds: float = COLLECT_TEXT_SECONDS) -> None:
        with self._lock:
            self._fresh |= dict.fromkeys(runs)
        if self._fresh:
            relay.outbox.call_later(seconds, self._send_texts)

    # In the outbox's thread.

    def _send_updates(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
            logs, self._logs = self._logs - changed.keys(), set()
        self.dropped_count += sum(max(0, len(runs) - MOST_RUNS) for runs in (changed, logs))
        message: FeedUpdates = {
            "type": "feed.updates",
            "from": relay.PROCESS,
            "changed": list(changed.items())[:MOST_RUNS],
            "logs": list(logs)[:MOST_RUNS],
        }
        relay.outbox.send(FEED_GROUP, message)

    def _send_texts(self) -> None:
        """Send the new text; if it does not fit into one message, send the rest later."""
        with self._lock:
            runs, self._fresh = self._fresh, {}
        pieces: list[Piece] = []
        room = MOST_CHARACTERS
        for run in runs:
            trace = trace_of(uuid.UUID(run))
            with self._lock:
                wanted = self._wanted.get(run)
                if trace is None or wanted is None:
                    continue
                if wanted.until <= time.monotonic():
                    del self._wanted[run]
                    continue
                found = trace.texts_after(wanted.sent)
                wanted.sent = {}  # of the calls that are still in flight
                for call, (start, text) in found.items():
                    piece = text[:room]
                    room -= len(piece)
                    wanted.sent[call] = start + len(piece)
                    if piece:
                        pieces.append((run, trace.agent, call, start, piece))
                    if len(piece) < len(text):
                        self._fresh[run] = None
        if pieces:
            message: FeedText = {"type": "feed.text", "from": relay.PROCESS, "pieces": pieces}
            relay.outbox.send(FEED_GROUP, message)
        self._send_texts_soon(())


#: Of this process.
sender = FeedSender()
