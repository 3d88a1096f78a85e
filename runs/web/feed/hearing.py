"""How a hub hears of news: of this process's runs directly, of others' by message.

Neither is relied on: what nobody told of is found by looking (``catching_up``).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import deque
from typing import Any

from channels.layers import get_channel_layer

from agents.trace import CallInfo, Event
from runs.delivery import audience, local_runs, notify, relay

from .catching_up import CatchingUp
from .tail import encode_event
from .tails import Tails, take_activity
from .watching import Watching

__all__ = ["Ear", "Hearing"]

logger = logging.getLogger(__name__)


class Hearing:
    """Takes in news, on the hub's loop."""

    def __init__(self, tails: Tails, catching_up: CatchingUp, watching: Watching) -> None:
        self._tails = tails
        self._catching_up = catching_up
        self._watching = watching
        self._process = relay.PROCESS  # whose news the ear hears
        self._channel: str | None = None

    def event(self, event: Event) -> None:
        tail = self._tails.named(event.run)
        if tail is None or tail.snapshot is None:
            return  # the snapshot that is being read has a number, and the table the event
        if event.type == "llm_call":
            tail.texts.end(event.data.get("call", ""))
        if not tail.add(event.seq, encode_event(event)):
            self._catching_up.note(tail.id)

    def text(self, run: str, agent: str, call: str, text: str, end: int) -> None:
        tail = self._tails.named(run)
        if tail is not None:
            tail.texts.add(agent, call, text, end)

    def activity(self, run: str) -> None:
        tail = self._tails.named(run)
        if tail is not None:
            take_activity(tail)

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        self._catching_up.note_change(run, root)

    async def listen(self) -> None:
        """Hear the news of other processes, until the channel layer fails."""
        layer = get_channel_layer()
        if layer is None or not relay.is_shared(layer):
            await asyncio.Event().wait()
            return
        # The same one again: the layer would fill one that nobody listens to any more.
        channel = self._channel = self._channel or await layer.new_channel()
        await layer.group_add(relay.FEED_GROUP, channel)
        await layer.group_add(audience.text_group(self._process), channel)
        self._watching.begin_all()  # what was asked for before may have come already, to nobody
        while True:
            message = await layer.receive(channel)
            if message.get("from") != self._process:
                await self._understand(message)

    async def _understand(self, message: dict[str, Any]) -> None:
        try:
            await self._take(message)
        except Exception as error:  # it is of another release, say; all of it is found by looking
            logger.warning("news can't be understood (%r)", error)

    async def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "feed.news":
                self._take_news(message)
            case "feed.text":
                self._watching.take(message["pieces"])
            case "feed.ask":
                await self._watching.renew()

    def _take_news(self, message: dict[str, Any]) -> None:
        for run in message.get("logs", ()):
            tail = self._tails.named(run)
            if tail is not None:
                self._catching_up.note(tail.id)
        for run, root in message.get("changed", ()):
            self.changed(uuid.UUID(run), uuid.UUID(root))


class Ear:
    """A ``live.Listener`` that carries news from any thread to the hub's loop, many at a time."""

    def __init__(self, hearing: Hearing, tails: Tails, catching_up: CatchingUp) -> None:
        self._hearing = hearing
        self._tails = tails
        self._catching_up = catching_up
        self._loop = asyncio.get_running_loop()
        self._news: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()
        self._is_told = False

    def event(self, event: Event) -> None:
        if self._tails.has(event.run):
            self._put((self._hearing.event, event))

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        if self._tails.has(run):
            entry = local_runs.get(uuid.UUID(run))
            guard = entry.guard if entry is not None else None
            # Told by the thread that has just passed it on: this is where the piece ends.
            end = guard.trace.text_length(call) if guard is not None else 0
            self._put((self._hearing.text, run, agent, call, text, end))

    def activity(self, run: str, in_flight: list[CallInfo]) -> None:
        if self._tails.has(run):
            self._put((self._hearing.activity, run))

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if self._tails.has(str(run)) or self._catching_up.cares_for(root):
            self._put((self._hearing.changed, run, root))

    def _put(self, news: tuple[Any, ...]) -> None:
        with self._lock:
            self._news.append(news)
            if self._is_told:
                return
            self._is_told = True
        try:
            self._loop.call_soon_threadsafe(self._pass_on)
        except RuntimeError:  # the loop is closed; whoever watched is gone
            notify.remove_listener(self)

    def _pass_on(self) -> None:
        with self._lock:
            news, self._news = self._news, deque()
            self._is_told = False
        for take, *what in news:
            take(*what)
