"""What a hub receives: from the runs of its process, and from other processes.

No reader relies on the messages of other processes: polling finds each change (``refresh``), and a
call's event has its text.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from channels.layers import get_channel_layer

from agents.trace import Event
from agents.wire import CallOnWire
from runs.delivery import local_runs, messages, notify, relay
from runs.delivery.messages import FeedText, FeedUpdates, FeedWatch, InvalidMessage, Message

from .frames import to_json
from .refresh import Refresher
from .tail import RunTail, Tails

__all__ = ["HubListener", "Inbox"]

logger = logging.getLogger(__name__)

SOON_SECONDS = 0.01  # requests that come together are sent together
MOST_RUNS = 2_000  # in one message


class HubListener:
    """A ``notify.Listener``. What comes within one turn of the loop is passed on together."""

    def __init__(self, tails: Tails, refresher: Refresher) -> None:
        self._tails = tails
        self._refresher = refresher
        self._loop = asyncio.get_running_loop()
        self._updates: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_scheduled = False

    # In any thread.

    def event(self, event: Event) -> None:
        if event.run in self._tails:
            self._pass_on(self._take_event, event)

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        if run in self._tails:
            trace = local_runs.trace_of(uuid.UUID(run))
            # The thread that has just streamed the piece calls this: the answer ends with it.
            end = trace.text_length(call) if trace is not None else 0
            self._pass_on(self._take_text, run, agent, call, end - len(text), text)

    def activity(self, run: str, in_flight: list[CallOnWire]) -> None:
        if run in self._tails:
            self._pass_on(self._take_activity, run)

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if self._refresher.is_followed(run, root):
            self._pass_on(self._refresher.run_has_changed, run, root)

    def _pass_on(self, take: Callable[..., None], *what: Any) -> None:
        self._updates.append((take, what))
        if not self._is_scheduled:  # at worst, two threads schedule it
            self._is_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._take_all)
            except RuntimeError:  # the loop is closed, and its readers are gone
                notify.remove_listener(self)

    # On the hub's loop.

    def _take_all(self) -> None:
        self._is_scheduled = False  # first: what is appended from now on is scheduled again
        for _ in range(len(self._updates)):
            take, what = self._updates.popleft()
            take(*what)

    def _take_event(self, event: Event) -> None:
        tail = self._tails.get(event.run)
        if tail is None or tail.snapshot is None:
            return  # the snapshot that is being read has a number, and the table the event
        if event.type == "llm_call":
            tail.texts.end(event.data.get("call", ""))
        if not tail.add(event.seq, to_json(event.as_dict())):
            self._refresher.run_is_stale(tail.id)

    def _take_text(self, run: str, agent: str, call: str, start: int, text: str) -> None:
        tail = self._tails.get(run)
        if tail is not None and not tail.texts.take(agent, call, start, text):
            tail.take_texts()

    def _take_activity(self, run: str) -> None:
        tail = self._tails.get(run)
        if tail is not None:
            tail.take_activity()


class Inbox:
    """The hub's channel in the layer. Used on the hub's loop alone."""

    def __init__(self, tails: Tails, refresher: Refresher) -> None:
        self._tails = tails
        self._refresher = refresher
        self._process = relay.PROCESS  # whose updates come by the listener
        self._channel: str | None = None
        self._missing: set[uuid.UUID] = set()  # runs of which text is missing
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self) -> None:
        """Receive messages until the channel layer fails."""
        layer = get_channel_layer()
        if layer is None or not relay.is_shared(layer):
            await asyncio.Event().wait()
            return
        # Reuse the channel: the layer would fill an old one that no task reads.
        channel = self._channel = self._channel or await layer.new_channel()
        await layer.group_add(relay.FEED_GROUP, channel)
        self._ask_for_all()  # nothing that was sent before has come
        while True:
            received = await layer.receive(channel)
            try:
                message = messages.read(received)
            except InvalidMessage as why:  # it is of another release, say
                logger.warning("a message %s to the feed can't be understood", why)
            else:
                self._take(message)

    def _take(self, message: Message) -> None:
        if message.get("from") == self._process:
            return
        match message["type"]:
            case "feed.updates":
                self._take_updates(message)
            case "feed.text":
                self._take_text(message)
            case "feed.ask":
                self._ask_for_all()

    def _take_updates(self, message: FeedUpdates) -> None:
        for run in message["logs"]:
            tail = self._tails.get(run)
            if tail is not None:
                self._refresher.run_is_stale(tail.id)
        for run, root in message["changed"]:
            self._refresher.run_has_changed(uuid.UUID(run), uuid.UUID(root))

    # Streamed text.

    def ask_for(self, tail: RunTail) -> None:
        """Ask for the text of a run that another process may have."""
        self._ask_soon([tail])

    async def keep_asking(self) -> None:
        """Ask for the text of all followed runs: some of it may be lost."""
        self._ask_for_all()

    def _ask_for_all(self) -> None:
        self._ask_soon(tail for tail in self._tails if tail.snapshot is not None)

    def _ask_soon(self, tails: Iterable[RunTail]) -> None:
        self._missing.update(tail.id for tail in tails)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_SECONDS, self._ask)

    def _ask(self) -> None:
        self._timer = None
        missing, self._missing = self._missing, set()
        if not relay.is_shared(get_channel_layer()):
            return
        known = {
            str(tail.id): tail.texts.lengths()
            for tail in self._tails
            if tail.id in missing and tail.is_elsewhere
        }
        for start in range(0, len(known), MOST_RUNS):
            runs = dict(islice(known.items(), start, start + MOST_RUNS))
            message: FeedWatch = {"type": "feed.watch", "from": self._process, "runs": runs}
            relay.outbox.send(notify.WORKERS_GROUP, message)

    def _take_text(self, message: FeedText) -> None:
        for run, agent, call, start, text in message["pieces"]:
            tail = self._tails.get(run)
            if tail is not None and not tail.texts.take(agent, call, start, text):
                self.ask_for(tail)
