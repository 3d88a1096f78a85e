"""What a stop cuts of a run: its calls in flight, each by a function of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from agents.cancellation import CancelToken, StopMode

from .in_flight import QUIET_SECONDS, InFlight

__all__ = ["Cuts"]

Cut = Callable[[], object]


class Cuts:
    """Calls the cuts of a run's calls when a stop reaches the rung that cuts them."""

    def __init__(self, token: CancelToken, in_flight: InFlight) -> None:
        self._token = token
        self._in_flight = in_flight
        self._cuts: dict[Cut, tuple[StopMode, asyncio.AbstractEventLoop | None]] = {}

    def __len__(self) -> int:
        return len(self._cuts)

    def add(self, cut: Cut, rung: StopMode, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let a stop of this rung, or a harder one, call ``cut`` on ``loop``; at once if it came.

        Without a loop it is called in whichever thread asks for the stop.
        """
        self._cuts[cut] = (rung, loop)
        mode = self._token.mode
        if mode is not None and mode.rank >= rung.rank:  # it came before
            self._cut(cut)

    def remove(self, cut: Cut) -> None:
        del self._cuts[cut]

    def make(self, mode: StopMode) -> None:
        """Cut what a stop of this mode cuts. From any thread."""
        for cut, (rung, loop) in self._cuts.copy().items():
            if mode.rank < rung.rank:
                continue
            if loop is None:
                self._cut(cut)
                continue
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._cut, cut, context=Context())

    def _cut(self, cut: Cut) -> None:
        """Cut a call; during a graceful stop wait until it is alone. On the call's loop, if any."""
        try:
            _, loop = self._cuts[cut]
        except KeyError:  # it is over
            return
        token = self._token
        is_graceful = token.mode is StopMode.GRACEFUL
        if not is_graceful or self._in_flight.is_quiet(token.acknowledged_monotonic):
            cut()
        elif loop is not None:
            loop.call_later(QUIET_SECONDS, self._cut, cut, context=Context())
        else:
            timer = threading.Timer(QUIET_SECONDS, self._cut, (cut,))
            timer.daemon = True
            Context().run(timer.start)  # it is no thread of the run that asks
