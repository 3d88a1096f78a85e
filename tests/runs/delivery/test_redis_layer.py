"""Messages that leave in the thread that sends them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.conf import settings
from redis.exceptions import ConnectionError as NoRedis

from runs.delivery import relay
from runs.delivery.redis_layer import RedisLayer

WAIT_SECONDS = 10


class Layer(RedisLayer):
    """Says what it is sent by which way; fails while it is told to."""

    def __init__(self) -> None:
        self.now: list[int] = []
        self.later: list[int] = []
        self.is_failing = False
        self.arrived = threading.Semaphore(0)

    def group_send_now(self, group: str, message: dict[str, Any]) -> None:
        self.now.append(message["number"])
        if self.is_failing:
            raise OSError

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self.later.append(message["number"])
        self.arrived.release()
        if self.is_failing:
            raise NoRedis


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Layer]:
    layer = Layer()
    monkeypatch.setattr(relay, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(relay, "outbox", relay.Outbox())
    return layer


def test_a_layer_that_can_sends_at_once(layer: Layer) -> None:
    relay.outbox.send_at_once("workers", {"number": 1})
    assert (layer.now, layer.later) == ([1], [])


def test_no_caller_waits_twice_for_a_layer_that_fails(layer: Layer) -> None:
    layer.is_failing = True
    relay.outbox.send_at_once("workers", {"number": 1})
    _until_failing()
    for number in (2, 3):
        relay.outbox.send_at_once("workers", {"number": number})
        assert layer.arrived.acquire(timeout=WAIT_SECONDS)
    assert layer.now == [1]


def test_what_failed_at_once_is_tried_again_and_then_all_is_as_before(layer: Layer) -> None:
    layer.is_failing = True
    relay.outbox.send_at_once("workers", {"number": 1})
    _until_failing()
    layer.is_failing = False
    relay.outbox.send_at_once("workers", {"number": 2})
    assert layer.arrived.acquire(timeout=WAIT_SECONDS)
    assert layer.arrived.acquire(timeout=WAIT_SECONDS)
    assert layer.later == [1, 2]
    _until_failing(False)
    relay.outbox.send_at_once("workers", {"number": 3})
    assert (layer.now, layer.later) == ([1, 3], [1, 2])


def test_a_redis_that_refuses_is_said_at_once() -> None:
    layer = RedisLayer({"address": "redis://127.0.0.1:1/0", "socket_timeout": 0.5}, "test", ["key"])
    with pytest.raises(OSError, match="Redis"):
        layer.group_send_now("group", {"type": "x"})


@pytest.mark.redis
async def test_a_thread_s_message_arrives_as_a_coroutine_s_does() -> None:
    layer = get_channel_layer()
    assert isinstance(layer, RedisLayer)
    assert settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] == layer._prefix
    channel = await layer.new_channel()
    await layer.group_add("test.group", channel)
    message = {"type": "run.stop", "stops": [{"run": "x", "attempt": 1}]}
    await asyncio.to_thread(layer.group_send_now, "test.group", message)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await layer.receive(channel) == message
    await layer.group_send("test.group", message)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await layer.receive(channel) == message


@pytest.mark.redis
async def test_processes_with_the_old_and_the_new_key_understand_each_other() -> None:
    host = settings.CHANNEL_LAYERS["default"]["CONFIG"]["host"]
    old = RedisLayer(host, "rotation", ["old"])
    new = RedisLayer(host, "rotation", ["old", "new"])
    for sender, receiver in ((old, new), (new, old)):
        channel = await receiver.new_channel()
        await receiver.group_add("group", channel)
        await asyncio.to_thread(sender.group_send_now, "group", {"type": "x"})
        async with asyncio.timeout(WAIT_SECONDS):
            assert await receiver.receive(channel) == {"type": "x"}


@pytest.mark.redis
async def test_what_is_no_message_is_skipped() -> None:
    layer = get_channel_layer()
    assert isinstance(layer, RedisLayer)
    channel = await layer.new_channel()
    await layer.group_add("test.skip", channel)
    for junk in (b"junk", layer.serialize([1]), layer.serialize("x")):
        layer._redis.publish(f"{layer._prefix}__group__test.skip", junk)
    await layer.group_send("test.skip", {"type": "last"})
    async with asyncio.timeout(WAIT_SECONDS):
        assert await layer.receive(channel) == {"type": "last"}


def _until_failing(is_failing: bool = True) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while relay.outbox.is_failing is not is_failing:
        assert time.monotonic() < deadline, "the relay did not notice"
        time.sleep(0.01)
