"""A worker's listener: its messages, and a layer that fails."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.contrib.auth.models import User
from django.db import connection

from agents import Tools, agent
from agents.cancellation import CancelToken, current_token
from runs import consumers
from runs.actions import starting
from runs.delivery import local_runs, notify
from runs.delivery.notify import WORKERS_GROUP
from runs.models import RunRecord, uuid7
from runs.process.tasks import cancel_and_wait
from runs.web.feed import inbox
from runs.web.feed.tail import Tails
from runs.worker import claim_loop
from tests.support.agent_run import turn_loop, within
from tests.support.journal import Journal

SECONDS = 10.0
NOT_UNDERSTOOD = {"type": "run.stop", "runs": ["of another release"]}


class Layer(InMemoryChannelLayer):
    """Fails as often as the test says; keeps its calls."""

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
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.id = uuid7()
        self.woken = asyncio.Event()
        self.executed: list[uuid.UUID] = []
        self.going_on = asyncio.Event()
        self.has_capacity = True

    def wake(self) -> None:
        self.woken.set()

    async def execute(self, run: uuid.UUID) -> None:
        self.executed.append(run)
        await self.going_on.wait()

    def poll(self) -> None: ...

    def receive_stops(self, deliveries: Any) -> None: ...


APPLICATION = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({consumers.AGENTS_CHANNEL: consumers.AgentConsumer.as_asgi()})}
)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    layer = Layer()
    for module in (consumers, inbox):
        monkeypatch.setattr(module, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(consumers, "PAUSES_SECONDS", (0.001,))
    return layer


@asynccontextmanager
async def listening(worker: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(consumers.listen(APPLICATION, worker))
    try:
        yield
    finally:
        await cancel_and_wait([task])


async def received(layer: Layer, worker: Worker) -> None:
    """Send a message until it is received."""
    await turn_loop()
    worker.woken.clear()
    async with asyncio.timeout(SECONDS):
        while not worker.woken.is_set():
            await layer.group_send(WORKERS_GROUP, {"type": "run.wake"})
            await asyncio.sleep(0.001)


async def test_after_an_outage_no_channel_fills_without_a_listener(
    layer: Layer,
) -> None:
    layer.failures = 5
    worker = Worker()
    async with listening(worker):
        await received(layer, worker)
    assert len(layer.made) == 1


async def test_an_invalid_message_ends_nothing(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    async with listening(worker):
        await received(layer, worker)
        await layer.group_send(WORKERS_GROUP, NOT_UNDERSTOOD)
        await received(layer, worker)
    assert len(layer.made) == 1
    assert "a message of type run.stop can't be understood" in caplog.text


async def test_an_execution_delays_no_message(layer: Layer) -> None:
    worker = Worker()
    runs = [uuid7(), uuid7()]
    async with listening(worker):
        await received(layer, worker)
        for run in runs:
            await layer.send(layer.made[0], {"type": "run.start", "run": str(run)})
        await received(layer, worker)
        assert worker.executed == runs
        worker.going_on.set()


async def test_a_full_worker_wakes_the_others(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        consumers.notify, "wake_workers", lambda: loop.call_soon_threadsafe(woken.set)
    )
    worker = Worker()
    worker.has_capacity = False
    worker.going_on.set()
    async with listening(worker):
        await received(layer, worker)
        await layer.send(layer.made[0], {"type": "run.start", "run": str(uuid7())})
        await within(SECONDS, woken.wait())


async def test_an_invalid_message_ends_no_feed(
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
    assert "a message of type feed.text to the feed can't be understood" in caplog.text


async def in_database(work: Callable[..., Any], *arguments: Any) -> Any:
    """Await ``work`` in a thread, and close the thread's connection."""

    def closing() -> Any:
        try:
            return work(*arguments)
        finally:
            connection.close()

    return await asyncio.to_thread(closing)


async def test_a_message_executes_an_agent_under_its_token(
    hire: Any, alice: User, log: Journal, layer: Layer
) -> None:
    """The whole path: channel, router, consumer, claim, the agents' loop."""
    seen: list[CancelToken | None] = []

    @agent("sees-its-token")
    async def sees(tools: Tools) -> str:
        seen.append(current_token())
        return "executed"

    def queue() -> tuple[RunRecord, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(notify, "send_start", lambda run: None)
            patch.setattr(claim_loop, "POLL_SECONDS", 3600.0)  # only the message starts it
            worker = hire()
            run, _ = starting.start_run("sees-its-token", {}, owner=alice)
        return run, worker

    run, worker = await in_database(queue)
    async with listening(worker):
        await turn_loop()
        await layer.send(layer.made[0], {"type": "run.start", "run": str(run.pk)})
        record = await in_database(log.over, run)
    assert record.result == "executed"
    (token,) = seen
    assert token is not None
    assert token.lease is local_runs.lease_of(worker.id)
