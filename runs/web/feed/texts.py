"""What the models of one run are saying: told in larger pieces, and never behind a call's end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .frames import Frame, to_json

__all__ = ["Texts"]

MOST_PIECES = 50  # kept for whoever is a little late
MOST_CHARACTERS = 200_000  # of one call's text so far
MOST_UNSURE = 20  # calls of which the record says nothing yet
MOST_SILENT = 1_000
TEXT_SECONDS = 0.1  # between two pieces of one run


@dataclass(slots=True)
class _Text:
    """What a model has said so far in one call."""

    agent: str
    whole: str = ""
    fresh: str = ""  # not told yet
    is_sure: bool = True  # the call was seen to be in flight: it may be told

    @property
    def length(self) -> int:
        return len(self.whole) + len(self.fresh)


class Texts:
    """Streamed text of one run.

    Attributes:
        count: how many pieces were told.
    """

    def __init__(self, run: str, wake: Callable[[], None]) -> None:
        self.count = 0
        self._run = run
        self._wake = wake
        self._pieces: deque[tuple[int, str]] = deque(maxlen=MOST_PIECES)
        self._talking: dict[str, _Text] = {}
        self._calls: Collection[str] = ()  # in flight, as far as is known
        self._silent: dict[str, None] = {}  # calls that are over: nothing of theirs is told again
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        """Tell whether there is text of a call that is not known to be over."""
        return bool(self._talking)

    # What comes in.

    def begin(self, agent: str, call: str, text: str) -> None:
        """Know what a model has said in a call before anybody followed."""
        if call not in self._silent:
            self._talking.setdefault(call, _Text(agent, whole=text))

    def add(self, agent: str, call: str, text: str, end: int = 0) -> None:
        """Take in a piece of a model's answer, of a run in this process.

        ``end``: how long the answer is with it; a piece that ``begin`` had already is none.
        """
        if call in self._silent:
            return
        talk = self._talking.setdefault(call, _Text(agent))
        if talk.length > MOST_CHARACTERS or 0 < end <= talk.length:
            return  # the call's event will have it all
        talk.fresh += text
        self._tell_soon()

    def take(self, agent: str, call: str, start: int, text: str) -> bool:
        """Take in what another process has of an answer from its ``start``-th character on.

        The message may have overtaken the record, or be older than it: it is told once the record
        says that the call is in flight, and never behind that. False if something is missing
        before it; then nothing is taken.
        """
        talk = self._talking.get(call) or _Text(agent, is_sure=False)
        if call in self._silent or talk.length > MOST_CHARACTERS:
            return True
        if start > talk.length:
            return False
        talk.fresh += text[talk.length - start :]
        self._talking[call] = talk
        talk.is_sure = talk.is_sure or call in self._calls
        if talk.is_sure:
            self._tell_soon()
        unsure = [one for one, other in self._talking.items() if not other.is_sure]
        for forgotten in unsure[:-MOST_UNSURE]:
            del self._talking[forgotten]
        return True

    # What is known of the calls.

    def know_calls(self, calls: Collection[str]) -> None:
        """Know which calls are in flight now."""
        self._calls = calls
        for call in calls:
            talk = self._talking.get(call)
            if talk is not None and not talk.is_sure:
                talk.is_sure = True
                self._tell_soon()

    def end_what_is_over(self) -> None:
        """End the calls that were in flight and are not any more."""
        for call, talk in list(self._talking.items()):
            if talk.is_sure and call not in self._calls:
                self.end(call)

    def end(self, call: str) -> None:
        """Tell the rest of what a model has said: the call is over.

        Of a call that never had its turn nothing is told, its event has it all: a thousand short
        calls a second are not to be a thousand frames.
        """
        self._silent[call] = None
        if len(self._silent) > MOST_SILENT:
            del self._silent[next(iter(self._silent))]
        talk = self._talking.pop(call, None)
        if talk is not None and talk.whole and talk.fresh:
            self._tell(call, talk)
            self._wake()

    def end_all(self) -> None:
        for call in list(self._talking):
            self.end(call)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # What is told.

    def behind(self, count: int) -> list[Frame]:
        """Return the pieces behind the ``count``-th; whoever is very late has missed some."""
        return [Frame("text", data) for number, data in self._pieces if number > count]

    def so_far(self) -> list[Frame]:
        """Return, for whoever comes in the middle, what was said in the calls going on."""
        return [
            Frame("text", self._frame(call, talk.agent, talk.whole))
            for call, talk in self._talking.items()
            if talk.whole
        ]

    def _tell_soon(self) -> None:
        if self._timer is None:
            self._tell_next()

    def _tell_next(self) -> None:
        self._timer = None
        talking = self._talking.items()
        call = next((call for call, talk in talking if talk.fresh and talk.is_sure), None)
        if call is None:
            return
        talk = self._talking.pop(call)
        self._tell(call, talk)
        self._talking[call] = talk  # behind the others: each has its turn
        self._timer = asyncio.get_running_loop().call_later(TEXT_SECONDS, self._tell_next)
        self._wake()

    def _tell(self, call: str, talk: _Text) -> None:
        self.count += 1
        self._pieces.append((self.count, self._frame(call, talk.agent, talk.fresh)))
        talk.whole, talk.fresh = talk.whole + talk.fresh, ""

    def _frame(self, call: str, agent: str, text: str) -> str:
        return to_json({"run": self._run, "agent": agent, "call": call, "text": text})
