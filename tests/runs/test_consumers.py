"""A worker's listener: what it is sent, and a layer that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from runs import consumers
from runs.delivery.notify import WORKERS_GROUP
from runs.models import uuid7
from runs.tasks import cancel_and_wait
from runs.web.feed import inbox
from runs.web.feed.tail import Tails
from tests.support.agent_run import turn_loop, within

SECONDS = 10.0
NOT_UNDERSTOOD = {"type": "run.stop", "runs": ["of another release"]}


class Layer(InMemoryChannelLayer):
    """Fails as often as it is told to; keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.made: list[str] = []

    async def new_channel(self, prefix: str = "specific.") -> str:
        self.made.append(str(await super().new_channel(prefix)))
        return self.made[-1]

    async def group_add(self, group: str, channel: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the layer is away")
        await super().group_add(group, channel)


class Worker:
    """Hears what comes."""

    def __init__(self) -> None:
        self.id = uuid7()
        self.woken = asyncio.Event()

    def wake(self) -> None:
        self.woken.set()

    def look(self) -> None: ...

    def hear_stops(self, deliveries: Any) -> None: ...


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    layer = Layer()
    for module in (consumers, inbox):
        monkeypatch.setattr(module, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(consumers, "PAUSES_SECONDS", (0.001,))
    return layer


@asynccontextmanager
async def listening(worker: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(consumers.listen(worker))
    try:
        yield
    finally:
        await cancel_and_wait([task])


async def heard(layer: Layer, worker: Worker) -> None:
    """Send a message until it is heard."""
    await turn_loop()
    worker.woken.clear()
    async with asyncio.timeout(SECONDS):
        while not worker.woken.is_set():
            await layer.group_send(WORKERS_GROUP, {"type": "run.wake"})
            await asyncio.sleep(0.001)


async def test_a_layer_that_was_away_fills_no_channel_that_nobody_listens_to(
    layer: Layer,
) -> None:
    layer.failures = 5
    worker = Worker()
    async with listening(worker):
        await heard(layer, worker)
    assert len(layer.made) == 1


async def test_a_message_that_is_not_understood_ends_nothing(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    async with listening(worker):
        await heard(layer, worker)
        await layer.group_send(WORKERS_GROUP, NOT_UNDERSTOOD)
        await heard(layer, worker)
    assert len(layer.made) == 1
    assert "a message of type 'run.stop' can't be understood (KeyError('stops'))" in caplog.text


async def test_a_message_that_is_not_understood_ends_no_feed(
    layer: Layer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()
    monkeypatch.setattr(inbox.relay, "is_shared", lambda _: True)
    nothing: Any = None
    feed = inbox.Inbox(Tails(), nothing)
    task = asyncio.create_task(feed.receive())
    try:
        await turn_loop()
        monkeypatch.setattr(feed, "_ask_for_all", asked.set)
        group = inbox.relay.FEED_GROUP
        await layer.group_send(group, {"type": "feed.text", "from": "another"})
        await layer.group_send(group, {"type": "feed.ask", "from": "another"})
        await within(SECONDS, asked.wait())
    finally:
        await cancel_and_wait([task])
    assert "a message to the feed can't be understood (KeyError('pieces'))" in caplog.text
