"""The answers that the models of one run are writing, in pieces large enough to send."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .frames import Frame, Shared, Text, to_json

__all__ = ["Texts"]

MOST_PIECES = 50  # kept for readers that are a little late
MOST_CHARACTERS = 200_000  # of one call's text so far
MOST_UNKNOWN = 20  # calls that are not known to be in flight
MOST_ENDED = 1_000
TEXT_SECONDS = 0.1  # between two pieces of one run


@dataclass(slots=True)
class _Text:
    """The answer of one call, so far."""

    agent: str
    sent: str = ""
    fresh: str = ""  # not sent yet
    is_known: bool = False  # the call was seen to be in flight: its text may be sent

    @property
    def length(self) -> int:
        return len(self.sent) + len(self.fresh)


class Texts:
    """Streamed text of one run. Text of a call is never sent after the call's event.

    Attributes:
        count: how many pieces there were.
    """

    def __init__(self, run: str, wake: Callable[[], None]) -> None:
        self.count = 0
        self._run = run
        self._wake = wake
        self._pieces: deque[tuple[int, str]] = deque(maxlen=MOST_PIECES)
        self._texts: dict[str, _Text] = {}
        self._in_flight: Collection[str] = ()  # calls, as far as is known
        self._ended: dict[str, None] = {}  # calls of which no text is taken any more
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        """Tell whether a call that is not known to be over has text."""
        return bool(self._texts)

    def lengths(self) -> dict[str, int]:
        """Return the length of each answer so far."""
        return {call: text.length for call, text in self._texts.items()}

    # Input.

    def take(self, agent: str, call: str, start: int, piece: str) -> bool:
        """Take a piece of an answer that starts at its ``start``-th character.

        The piece may be older or newer than the record: it is sent once the call is known to be in
        flight. Returns False, and takes nothing, if text before the piece is missing.
        """
        text = self._texts.get(call) or _Text(agent)
        if call in self._ended or text.length >= MOST_CHARACTERS:
            return True  # the call's event has it all
        if start > text.length:
            return False
        text.fresh += piece[text.length - start :]
        self._texts[call] = text
        text.is_known = text.is_known or call in self._in_flight
        if text.is_known:
            self._send_soon()
            return True
        unknown = [one for one, other in self._texts.items() if not other.is_known]
        for forgotten in unknown[:-MOST_UNKNOWN]:
            del self._texts[forgotten]
        return True

    # The calls.

    def know_calls(self, calls: Collection[str]) -> None:
        """Take the calls that are in flight now."""
        self._in_flight = calls
        for call in calls:
            text = self._texts.get(call)
            if text is not None and not text.is_known:
                text.is_known = True
                self._send_soon()

    def end_what_is_over(self) -> None:
        """End the calls that are no longer in flight."""
        for call, text in list(self._texts.items()):
            if text.is_known and call not in self._in_flight:
                self.end(call)

    def end(self, call: str) -> None:
        """Send the rest of an answer whose call is over.

        If none of it was sent, send nothing, the call's event has it all: a thousand short calls a
        second must not become a thousand frames.
        """
        self._ended[call] = None
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        text = self._texts.pop(call, None)
        if text is not None and text.sent and text.fresh:
            self._send(call, text)
            self._wake()

    def end_all(self) -> None:
        for call in list(self._texts):
            self.end(call)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # Output.

    def after(self, count: int) -> list[Frame]:
        """Return the pieces after the ``count``-th; a very late reader has missed some."""
        return [Frame("text", data) for number, data in self._pieces if number > count]

    def so_far(self) -> list[Frame]:
        """Return the answers in progress, for a new reader."""
        return [
            Frame("text", self._frame(call, text.agent, text.sent))
            for call, text in self._texts.items()
            if text.sent
        ]

    def _send_soon(self) -> None:
        if self._timer is None:
            self._send_next()

    def _send_next(self) -> None:
        self._timer = None
        texts = self._texts.items()
        call = next((call for call, text in texts if text.fresh and text.is_known), None)
        if call is None:
            return
        text = self._texts.pop(call)
        self._send(call, text)
        self._texts[call] = text  # after the others: each has its turn
        self._timer = asyncio.get_running_loop().call_later(TEXT_SECONDS, self._send_next)
        self._wake()

    def _send(self, call: str, text: _Text) -> None:
        self.count += 1
        self._pieces.append((self.count, self._frame(call, text.agent, text.fresh)))
        text.sent, text.fresh = text.sent + text.fresh, ""

    def _frame(self, call: str, agent: str, text: str) -> str:
        frame: Text = {"run": self._run, "agent": agent, "call": call, "text": text}
        return Shared(to_json(frame))
