"""Text of runs that are in other processes: says which are watched here, takes in what comes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable

from channels.layers import get_channel_layer

from runs.delivery import audience, local_runs, notify, relay

from .tail import RunTail
from .tails import Tails

__all__ = ["Watching"]

SOON_SECONDS = 0.01  # those who come together are named together
MOST_RUNS = 2_000  # in one message


class Watching:
    """Keeps other processes told of what is watched here. Used on the hub's loop alone."""

    def __init__(self, tails: Tails) -> None:
        self._loop = asyncio.get_running_loop()
        self._tails = tails
        self._process = relay.PROCESS
        self._anew: dict[uuid.UUID, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, tail: RunTail) -> None:
        """Ask for the text of a run from its beginning, if the run is in another process."""
        if not _may_be_elsewhere(tail) or not _is_shared():
            return
        self._anew[tail.id] = None
        if self._timer is None:
            self._timer = self._loop.call_later(SOON_SECONDS, self._ask)

    def begin_all(self) -> None:
        """Ask for the text of all runs followed here of which the record is known."""
        for tail in self._tails:
            if tail.snapshot is not None:
                self.begin(tail)

    async def renew(self) -> None:
        """Say what is watched here."""
        if _is_shared():
            self._say([tail.id for tail in self._tails if _may_be_elsewhere(tail)], "runs")

    def take(self, pieces: Iterable[audience.Piece]) -> None:
        """Take in text; of an answer of which a piece is missing, ask for the whole."""
        for run, agent, call, start, text in pieces:
            tail = self._tails.named(run)
            if tail is not None and not tail.texts.take(agent, call, start, text):
                self.begin(tail)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self) -> None:
        self._timer = None
        anew, self._anew = self._anew, {}
        self._say(list(anew), "anew")

    def _say(self, runs: list[uuid.UUID], what: str) -> None:
        for start in range(0, len(runs), MOST_RUNS):
            some = [str(id) for id in runs[start : start + MOST_RUNS]]
            relay.send(
                notify.WORKERS_GROUP, {"type": "feed.watch", "from": self._process, what: some}
            )


def _may_be_elsewhere(tail: RunTail) -> bool:
    is_over = tail.snapshot is not None and tail.snapshot.is_over
    return not (is_over or tail.is_gone) and local_runs.get(tail.id) is None


def _is_shared() -> bool:
    return relay.is_shared(get_channel_layer())
