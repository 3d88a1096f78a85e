"""Updates for other processes: that there are some, collected, and never a reason to fail."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.db import connection

from agents import Tools, agent
from runs.delivery import feeds, notify, relay
from runs.models import DataStoreEntry, RunRecord
from runs.web.feed import Cursor, Follower, View, Viewer, close_hub, get_hub, hub
from runs.worker.worker import Worker
from tests.support.journal import Journal
from tests.support.running import Start

WAIT_SECONDS = 10.0


class NotingLayer:
    """Keeps what is sent; ``until(condition)`` waits for it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._arrived = threading.Condition()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        assert group == relay.FEED_GROUP
        with self._arrived:
            self.sent.append(message)
            self._arrived.notify_all()

    def until(self, condition: Any) -> None:
        with self._arrived:
            assert self._arrived.wait_for(condition, WAIT_SECONDS), self.sent

    def changed(self) -> set[str]:
        return {run for message in self.sent for run, _ in message["changed"]}

    def logs(self) -> set[str]:
        return {run for message in self.sent for run in message["logs"]}


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> NotingLayer:
    layer = NotingLayer()
    monkeypatch.setattr(relay, "get_channel_layer", lambda: layer)
    return layer


def test_a_process_that_has_no_more_threads_for_a_while_sends_when_it_has(
    layer: NotingLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(relay, "outbox", relay.Outbox())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            feeds.sender.tell_of_log("lost")
        with pytest.raises(RuntimeError):
            relay.outbox.send(relay.FEED_GROUP, {"changed": [], "logs": ["lost"]})
    feeds.sender.tell_of_log("told")
    layer.until(lambda: "told" in layer.logs())
    relay.outbox.send(relay.FEED_GROUP, {"changed": [], "logs": ["sent"]})
    layer.until(lambda: "sent" in layer.logs())


def test_many_updates_are_one_message(layer: NotingLayer) -> None:
    runs = [(uuid.uuid4(), uuid.uuid4()) for _ in range(100)]
    for run, root in runs:
        feeds.sender.changed(run, root)
        feeds.sender.tell_of_log(str(run))
        feeds.sender.tell_of_log(str(root))
    layer.until(lambda: len(layer.changed()) == 100 and len(layer.logs()) == 100)
    assert len(layer.sent) < 20
    assert layer.sent[0]["from"] == relay.PROCESS
    # A reader of the record reads the log, too.
    assert layer.logs() == {str(root) for _, root in runs}


def test_a_message_has_an_end(layer: NotingLayer) -> None:
    before = feeds.sender.dropped_count
    runs = [uuid.uuid4() for _ in range(3 * feeds.MOST_RUNS)]
    for _ in range(20):  # on a slow machine several messages may go meanwhile, each with room
        for run in runs:
            feeds.sender.changed(run, run)
        if feeds.sender.dropped_count > before:
            break
    layer.until(lambda: feeds.sender.dropped_count > before)
    assert all(len(message["changed"]) <= feeds.MOST_RUNS for message in layer.sent)


def test_a_layer_that_fails_is_complained_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, layer: NotingLayer
) -> None:
    tried = threading.Semaphore(0)

    class Failing:
        async def group_send(self, group: str, message: Any) -> None:
            tried.release()
            raise ConnectionError("no redis")

    monkeypatch.setattr(relay, "get_channel_layer", Failing)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            feeds.sender.changed(uuid.uuid4(), uuid.uuid4())
            assert tried.acquire(timeout=WAIT_SECONDS)
        monkeypatch.setattr(relay, "get_channel_layer", lambda: layer)
        run = uuid.uuid4()
        feeds.sender.changed(run, run)
        layer.until(lambda: str(run) in layer.changed())
    assert [r.message for r in caplog.records if r.name == "runs.delivery.relay"] == [
        "no messages to other processes (no redis); they poll"
    ]


def test_only_a_layer_that_others_receive_from_is_used(
    monkeypatch: pytest.MonkeyPatch, worker: Worker, start: Start, log: Journal
) -> None:
    told: list[str] = []
    monkeypatch.setattr(feeds.sender, "changed", lambda run, root: told.append(str(run)))
    monkeypatch.setattr(feeds.sender, "tell_of_log", told.append)

    @agent("quick")
    async def quick(tools: Tools) -> None:
        await tools.data_store.get("x")

    monkeypatch.setattr(notify, "get_channel_layer", InMemoryChannelLayer)
    log.over(start("quick"))
    assert told == []
    monkeypatch.setattr(notify, "get_channel_layer", NotingLayer)
    run = log.over(start("quick"))
    assert set(told) == {str(run.pk)}


@pytest.mark.redis
async def test_a_feed_learns_of_runs_elsewhere_by_message(
    monkeypatch: pytest.MonkeyPatch, worker: Worker, start: Start, log: Journal
) -> None:
    """It does not poll and ignores its own process: only messages are left."""
    monkeypatch.setattr(hub, "POLL_SECONDS", 3600.0)

    @agent("waits")
    async def waits(tools: Tools) -> str:
        while not await tools.data_store.get("go"):
            await asyncio.sleep(0.01)
        return "gone"

    run = await asyncio.to_thread(_closing, start, "waits")
    ours = get_hub()
    viewer = Viewer(run.owner_id, run=run.pk, sees_all=True)
    monkeypatch.setattr(hub.rights, "find_lost", lambda viewers: {})
    follower = Follower(ours, viewer, Cursor(), view=View())
    seen: list[str] = []
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            async for batch in follower.batches():
                notify.remove_listener(ours.listener)
                # What this process says is what another one would.
                monkeypatch.setattr(relay, "PROCESS", "another")
                seen += [frame.type for frame in batch]
                if "go" not in seen and "trace" in seen:
                    seen.append("go")
                    await asyncio.to_thread(_closing, _let_go, run)
    finally:
        await close_hub()
    assert seen[-1] == "end"


def _closing(work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    finally:
        connection.close()


def _let_go(run: RunRecord) -> None:
    DataStoreEntry.objects.create(owner=run.owner, namespace="default", key="go", value=True)
