"""A program that can read and write Redis, and knows no key: what it sees, and what it can do."""

from __future__ import annotations

import asyncio
import logging
import pickle
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
from channels.layers import channel_layers, get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from channels_redis.serializers import registry
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache
from rest_framework.test import APIClient

from agents.cancellation import StopMode
from runs import consumers
from runs.delivery import local_runs, relay
from runs.delivery.local_runs import ActiveRun
from runs.delivery.notify import WORKERS_GROUP, worker_group
from runs.delivery.redis_layer import RedisLayer
from runs.delivery.stop_message import StopDelivery, StopRequest
from runs.models import uuid7
from runs.process.tasks import cancel_and_wait
from runs.web.feed.inbox import Inbox
from runs.web.feed.tail import Tails

pytestmark = pytest.mark.redis

SECONDS = 10.0
SECRET = "nothing of a message may be logged"
AGENTS = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({consumers.AGENTS_CHANNEL: consumers.AgentConsumer.as_asgi()})}
)


class Worker:
    """Trips the tokens of this process, as a real one does."""

    has_capacity = True

    def __init__(self) -> None:
        self.id = uuid7()
        self.woken = asyncio.Event()
        self.executed: list[uuid.UUID] = []

    def wake(self) -> None:
        self.woken.set()

    def poll(self) -> None: ...

    def poll_started(self, runs: Any) -> None: ...

    async def execute(self, run: uuid.UUID) -> None:
        self.executed.append(run)

    def receive_stops(self, deliveries: list[StopDelivery]) -> None:
        local_runs.trip(deliveries)


@pytest.fixture
def layer() -> RedisLayer:
    channel_layers.backends.clear()
    layer = get_channel_layer()
    assert isinstance(layer, RedisLayer)
    return layer


@pytest.fixture
def stranger() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.CACHES["default"]["LOCATION"]) as client:
        yield client


@pytest.fixture
async def worker(layer: RedisLayer) -> AsyncIterator[Worker]:
    worker = Worker()
    async with _listening(layer, worker):
        yield worker


@pytest.fixture
def run(worker: Worker) -> Iterator[ActiveRun]:
    run = ActiveRun(uuid7(), worker.id)
    local_runs.add(run)
    yield run
    local_runs.remove(run)


@asynccontextmanager
async def _listening(layer: RedisLayer, worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(consumers.listen(AGENTS, worker))  # type: ignore[arg-type]
    try:
        await _until_heard(layer, worker, WORKERS_GROUP)
        await _until_heard(layer, worker, worker_group(worker.id))
        yield
    finally:
        await cancel_and_wait([task])


async def _until_heard(layer: RedisLayer, worker: Worker, group: str) -> None:
    """Wait until the worker receives from a group, and has received all that was sent before."""
    worker.woken.clear()
    async with asyncio.timeout(SECONDS):
        while not worker.woken.is_set():
            await layer.group_send(group, {"type": "run.wake"})
            await asyncio.sleep(0.01)


def _name(group: str) -> str:
    """Return the name of a group in Redis, which anyone there can list."""
    return f"{settings.CHANNEL_LAYERS['default']['CONFIG']['prefix']}__group__{group}"


def _stop_of(run: ActiveRun) -> dict[str, Any]:
    at = datetime.now(UTC)
    request = StopRequest(StopMode.GRACEFUL, SECRET, "api", "admin", at, run.id)
    delivery = StopDelivery(run.id, run.worker, run.attempt, request)
    return {"type": "run.stop", "stops": [delivery.as_message()]}


FORGERIES: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "as it was before": lambda message: bytes(msgpack.packb(message)),
    "under a key of his own": lambda message: bytes(
        registry.get_serializer("msgpack", symmetric_encryption_keys=["guessed"]).serialize(message)
    ),
    "pickled": pickle.dumps,
    "text": lambda message: str(message).encode(),
}


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_forged_stop_trips_no_token(
    how: str,
    layer: RedisLayer,
    worker: Worker,
    run: ActiveRun,
    stranger: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = _name(worker_group(worker.id))
    assert stranger.publish(channel, FORGERIES[how](_stop_of(run))) == 1, "the worker gets it"
    await _until_heard(layer, worker, worker_group(worker.id))
    assert run.token.cause is None
    assert SECRET not in caplog.text
    # The same message by its own door does.
    await layer.group_send(worker_group(worker.id), _stop_of(run))
    await _until_heard(layer, worker, worker_group(worker.id))
    assert run.token.cause is not None


async def test_a_repeated_stop_does_not_reach_the_next_attempt(
    layer: RedisLayer, worker: Worker, run: ActiveRun, stranger: redis.Redis
) -> None:
    group = worker_group(worker.id)
    with stranger.pubsub(ignore_subscribe_messages=True) as spy:
        spy.subscribe(_name(group))
        spy.get_message(timeout=SECONDS)  # the subscription
        await layer.group_send(group, _stop_of(run))
        said = await asyncio.to_thread(spy.get_message, timeout=SECONDS)
    await _until_heard(layer, worker, group)
    assert run.token.cause is not None
    again = ActiveRun(run.id, run.worker, attempt=2)
    local_runs.add(again)
    try:
        stranger.publish(_name(group), said["data"])
        stranger.publish(_name(WORKERS_GROUP), said["data"])
        await _until_heard(layer, worker, group)
        await _until_heard(layer, worker, WORKERS_GROUP)
        assert again.token.cause is None
    finally:
        local_runs.remove(again)


async def test_a_listener_in_redis_can_read_nothing(
    layer: RedisLayer, stranger: redis.Redis
) -> None:
    with stranger.pubsub(ignore_subscribe_messages=True) as spy:
        spy.subscribe(_name("spied"))
        spy.get_message(timeout=SECONDS)
        await layer.group_send("spied", {"type": "feed.text", "text": SECRET})
        await asyncio.to_thread(layer.group_send_now, "spied", {"text": SECRET})
        for _ in range(2):
            said = await asyncio.to_thread(spy.get_message, timeout=SECONDS)
            assert SECRET.encode() not in said["data"]


JUNK: list[Any] = [
    *(b"", b"\x00", b"\xc1", b"\xff" * 1000, b"gAAAAA", b"\x93" * 5000, msgpack.packb([SECRET])),
    *(msgpack.packb({"type": SECRET}), msgpack.packb(SECRET), b"cos\nsystem\n(S'true'\ntR."),
]
MALFORMED: list[Any] = [
    {},
    {"type": None},
    {"type": ["run.stop"]},
    {"type": {"run.stop": 1}},
    {"type": SECRET},
    {"type": "dispatch"},
    {"type": "run.start"},
    {"type": "run.start", "run": SECRET},
    {"type": "run.start", "run": [SECRET]},
    {"type": "run.start", "run": None},
    {"type": "run.stop"},
    {"type": "run.stop", "stops": SECRET},
    {"type": "run.stop", "stops": [SECRET]},
    {"type": "run.stop", "stops": [{"run": SECRET}]},
    {"type": "run.stop", "stops": [{"run": str(uuid.UUID(int=1)), "attempt": SECRET}]},
    {"type": "run.ended", "runs": {SECRET: 1}},
    {"type": "run.ended", "runs": [1, SECRET]},
    {"type": "feed.watch", "from": "x"},
    {"type": "feed.watch", "from": "x", "runs": {SECRET: {}}},
    {"type": "feed.watch", "from": "x", "runs": {str(uuid.UUID(int=1)): {"call": -1}}},
    {"type": "feed.watch", "from": "x", "runs": {str(uuid.UUID(int=1)): {"call": SECRET}}},
    {"type": "feed.text", "from": "x", "pieces": [[SECRET]]},
    {"type": "feed.text", "from": "x", "pieces": [["a", "b", "c", -1, SECRET]]},
    {"type": "feed.updates", "from": "x", "changed": [[SECRET, SECRET]], "logs": []},
    {"type": "feed.updates", "from": "x", "changed": [], "logs": [[SECRET]]},
    {"type": "feed.updates", "from": 1, "changed": 2, "logs": 3},
    {"type": "feed.ask"},
]


async def test_no_message_ends_or_delays_a_worker_or_is_logged(
    layer: RedisLayer, worker: Worker, stranger: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Of strangers, and those that another release may send under our key."""
    for junk in JUNK:
        stranger.publish(_name(WORKERS_GROUP), junk)
    for message in MALFORMED:
        await layer.group_send(WORKERS_GROUP, message)
    await _until_heard(layer, worker, WORKERS_GROUP)
    assert "does not answer" not in caplog.text, "it listens on without a pause"
    assert worker.executed == []
    assert SECRET not in caplog.text
    assert all(record.levelno < logging.ERROR for record in caplog.records)


async def test_no_message_ends_a_feed_or_is_logged(
    layer: RedisLayer,
    stranger: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Any = None
    feed = Inbox(Tails(), nothing)
    asked = asyncio.Event()
    monkeypatch.setattr(feed, "_ask_for_all", asked.set)
    task = asyncio.create_task(feed.receive())
    try:
        async with asyncio.timeout(SECONDS):
            await asked.wait()  # it has subscribed
            asked.clear()
            for junk in JUNK:
                stranger.publish(_name(relay.FEED_GROUP), junk)
            for message in MALFORMED:
                await layer.group_send(relay.FEED_GROUP, message)
            await layer.group_send(relay.FEED_GROUP, {"type": "feed.ask", "from": "another"})
            await asked.wait()
        assert not task.done()
    finally:
        await cancel_and_wait([task])
    assert SECRET not in caplog.text


class _Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_nothing_in_the_cache_is_code(alice: User, stranger: redis.Redis, tmp_path: Path) -> None:
    """With Django's own serializer the request below runs it."""
    ran = tmp_path / "ran"
    client = APIClient()
    client.force_authenticate(alice)
    key = cache.make_key(f"halting:throttle:user:{alice.pk}")
    for stored in (
        pickle.dumps(_Bomb(ran)),
        b"[[[" * 50_000,
        b'{"a": 1}',
        b'["a", null]',
        b"\xff",
        b"9" * 10_000,
        b"",
    ):
        stranger.set(key, stored, ex=60)
        assert client.get("/agents").status_code == 200
        stranger.set(cache.make_key("health"), stored, ex=60)
        assert client.get("/health/ready").status_code == 200
    stranger.delete(cache.make_key("health"), key)
    assert not ran.exists()


def test_the_limit_on_requests_still_counts_by_redis(alice: User, settings: Any) -> None:
    settings.RUNS = {**settings.RUNS, "API_THROTTLE_RATE": "3/min"}
    client = APIClient()
    client.force_authenticate(alice)
    assert [client.get("/agents").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert len(cache.get(f"halting:throttle:user:{alice.pk}")) == 3
    cache.delete(f"halting:throttle:user:{alice.pk}")
