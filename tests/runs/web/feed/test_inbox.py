"""Text of a run in another process: late, lost, doubled, and never after the end of its call."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from runs.delivery import feeds, notify
from runs.web.feed import Hub, inbox, texts
from runs.web.feed import tail as tail_module
from tests.support.feeds import Client, Reader, Writer, settle, turns
from tests.support.relay_queue import RelayQueue


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "TEXT_SECONDS", 0.0)


class TestFeed:
    """A run that another process has: here are only its record and what the other one sends."""

    async def test_of_a_run_elsewhere_shows_text_until_the_call_s_event(
        self, writer: Writer, hub: Hub
    ) -> None:
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.flush()
        reader = Reader(Client(), hub, run, "socket")
        await settle(hub, reader)
        await self.bring(hub, run, call, 0, "Once upon ")
        await settle(hub, reader)
        late = Reader(Client(), hub, run, "socket")
        await settle(hub, reader, late)
        assert reader.client.texts == late.client.texts == {call: "Once upon "}
        await self.bring(hub, run, call, 10, "a time")
        writer.end_call(run.pk)
        writer.flush()
        await settle(hub, reader, late)
        await self.bring(hub, run, call, 16, " there was")
        await self.bring(hub, run, call, 0, "Once upon a time there was")
        newest = Reader(Client(), hub, run, "socket")
        await settle(hub, reader, late, newest)
        assert reader.client.texts == late.client.texts == {call: "Once upon a time"}
        assert newest.client.texts == {}
        reader.client.wait_is_true(str(run.pk), with_input=True)
        writer.end(run.pk)
        await settle(hub, reader, late, newest)
        assert reader.client.is_ended

    async def test_its_last_words_come_before_the_event_of_their_call(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when updates of what is in flight are held back for moderation."""
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.flush()
        reader = Reader(Client(), hub, run, "socket")
        await settle(hub, reader)
        monkeypatch.setattr(texts, "TEXT_SECONDS", 3600.0)
        monkeypatch.setattr(tail_module, "ACTIVITY_SECONDS", 3600.0)
        other = writer.begin_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        await self.bring(hub, run, call, 0, "Once upon ")
        await self.bring(hub, run, call, 10, "a time")
        writer.end_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        assert other != call
        assert reader.client.texts == {call: "Once upon a time"}
        types = reader.client.types
        assert types.count("trace") == 2
        assert types[::-1].index("trace") < types[::-1].index("text")

    async def test_nothing_is_left_of_the_text_of_a_lost_worker(
        self, writer: Writer, hub: Hub
    ) -> None:
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.flush()
        reader = Reader(Client(), hub, run, "socket")
        await settle(hub, reader)
        await self.bring(hub, run, call, 0, "unfinished")
        await settle(hub, reader)
        writer.lose(run.pk)
        await settle(hub, reader)
        writer.begin(is_elsewhere=True)
        again = writer.begin_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        await self.bring(hub, run, call, 10, " business")  # of a worker that does not know it
        await self.bring(hub, run, again, 0, "afresh")
        late = Reader(Client(), hub, run, "socket")
        await settle(hub, reader, late)
        assert again != call
        assert reader.client.texts == {call: "unfinished", again: "afresh"}
        assert late.client.texts == {again: "afresh"}

    async def bring(self, hub: Hub, run: Any, call: str, start: int, text: str) -> None:
        pieces = [[str(run.pk), run.agent, call, start, text]]
        hub.inbox._take({"type": "feed.text", "from": "another", "pieces": pieces})
        await turns(5)


class SlowLayer:
    """A channel layer whose group is joined only some time after a process has asked."""

    def __init__(self) -> None:
        self.joined = asyncio.Event()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def new_channel(self) -> str:
        return "channel"

    async def group_add(self, group: str, channel: str) -> None:
        await self.joined.wait()

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self.messages.get()


class TestBothEnds:
    """The process that has the run and the one with readers, with messages that get lost."""

    @pytest.fixture
    def layer(self, monkeypatch: pytest.MonkeyPatch) -> SlowLayer:
        layer = SlowLayer()
        monkeypatch.setattr(inbox, "get_channel_layer", lambda: layer)
        return layer

    @pytest.fixture
    def queue(self, monkeypatch: pytest.MonkeyPatch) -> RelayQueue:
        monkeypatch.setattr(feeds, "sender", feeds.FeedSender())
        return RelayQueue(monkeypatch)

    @pytest.fixture
    def call(
        self, writer: Writer, queue: RelayQueue, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Any, str]:
        """A run in another process, and a call in which its model has said something."""
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.say(run.pk, "Once upon ")
        writer.flush()
        # Both processes are this one, in which the run is not among the local ones.
        monkeypatch.setattr(feeds, "trace_of", lambda run: self._trace(writer, run))
        return run, call

    def _trace(self, writer: Writer, run: uuid.UUID) -> Any:
        held = writer.held.get(run)
        return held.trace if held is not None else None

    async def pass_on(
        self, hub: Hub, queue: RelayQueue, layer: SlowLayer, *readers: Reader, lose: bool = False
    ) -> None:
        """Deliver what is sent to either side until nothing is."""
        for _ in range(5):
            await settle(hub, *readers)
            await asyncio.sleep(2 * inbox.SOON_SECONDS)
            queue.pass_time()
            for group, message in queue.take():
                if message["type"] == "feed.watch":
                    assert group == notify.WORKERS_GROUP
                    feeds.sender.request(message["runs"])
                elif layer.joined.is_set() and not lose:
                    layer.messages.put_nowait({**message, "from": "another"})

    async def test_text_is_asked_for_by_a_process_that_joins_the_group_only_later(
        self, call: tuple[Any, str], hub: Hub, queue: RelayQueue, layer: SlowLayer
    ) -> None:
        run, name = call
        reader = Reader(Client(), hub, run, "socket")
        await self.pass_on(hub, queue, layer, reader)
        assert reader.client.texts == {}
        layer.joined.set()
        await self.pass_on(hub, queue, layer, reader)
        assert reader.client.texts == {name: "Once upon "}

    async def test_text_that_was_lost_is_asked_for_again_although_nothing_follows(
        self,
        writer: Writer,
        call: tuple[Any, str],
        hub: Hub,
        queue: RelayQueue,
        layer: SlowLayer,
    ) -> None:
        run, name = call
        layer.joined.set()
        reader = Reader(Client(), hub, run, "socket")
        await self.pass_on(hub, queue, layer, reader)
        assert reader.client.texts == {name: "Once upon "}
        writer.say(run.pk, "a time")
        await self.pass_on(hub, queue, layer, reader, lose=True)
        await self.pass_on(hub, queue, layer, reader)
        assert reader.client.texts == {name: "Once upon "}, "it was lost"
        hub.inbox._take({"type": "feed.ask"})  # as when some seconds are over
        await self.pass_on(hub, queue, layer, reader)
        assert reader.client.texts == {name: "Once upon a time"}

    async def test_text_that_was_lost_is_asked_for_as_soon_as_the_next_piece_comes(
        self,
        writer: Writer,
        call: tuple[Any, str],
        hub: Hub,
        queue: RelayQueue,
        layer: SlowLayer,
    ) -> None:
        run, name = call
        layer.joined.set()
        reader = Reader(Client(), hub, run, "socket")
        await self.pass_on(hub, queue, layer, reader)
        for piece, is_lost in (("a time ", True), ("there was", False)):
            writer.say(run.pk, piece)
            await self.pass_on(hub, queue, layer, reader, lose=is_lost)
        assert reader.client.texts == {name: "Once upon a time there was"}

    async def test_runs_that_are_over_or_have_no_readers_are_not_asked_for(
        self,
        writer: Writer,
        call: tuple[Any, str],
        hub: Hub,
        queue: RelayQueue,
        layer: SlowLayer,
    ) -> None:
        run, _ = call
        other = writer.queue()
        writer.begin(is_elsewhere=True)
        readers = [Reader(Client(), hub, one, "socket") for one in (run, other)]
        await settle(hub, *readers)
        assert await self.asked_for(hub, queue) == {str(run.pk), str(other.pk)}
        writer.end(run.pk)
        readers[1].task.cancel()
        await settle(hub, readers[0])
        tail = hub.tails.get(other.pk)
        assert tail is not None
        hub.tails.forget_if_alone(tail)  # as when it has lingered
        assert await self.asked_for(hub, queue) == set()

    async def asked_for(self, hub: Hub, queue: RelayQueue) -> set[str]:
        await asyncio.sleep(2 * inbox.SOON_SECONDS)
        queue.take()
        hub.inbox._take({"type": "feed.ask"})
        await asyncio.sleep(2 * inbox.SOON_SECONDS)
        return {run for _, message in queue.take() for run in message["runs"]}
