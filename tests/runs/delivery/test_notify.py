"""Updates of runs: in order, once, and never a reason to fail."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from agents import Tools, agent
from agents.cancellation import StopMode
from runs.actions import stopping
from runs.delivery import local_runs, notify, relay, worker_choice
from runs.delivery.stop_message import StopDelivery, StopRequest
from runs.models import RunEvent
from runs.worker.worker import Worker
from tests.support.journal import Journal
from tests.support.llm_server import TEXT, LLMServer
from tests.support.rows import make_worker
from tests.support.running import Start
from tests.support.server import eventually


class NotingLayer:
    """Keeps what is sent, updates for feeds apart; ``until(count)`` waits for it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self._arrived = threading.Condition()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group != relay.FEED_GROUP:
            with self._arrived:
                self.sent.append((group, message))
                self._arrived.notify_all()

    def until(self, count: int) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.sent) >= count, 10), self.sent

    def until_group(self, group: str) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: group in dict(self.sent), 10), self.sent


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> NotingLayer:
    layer = NotingLayer()
    monkeypatch.setattr(notify, "get_channel_layer", lambda: layer)
    monkeypatch.setattr(relay, "get_channel_layer", lambda: layer)
    return layer


def _delivery(worker: uuid.UUID | None) -> StopDelivery:
    run = uuid.uuid4()
    request = StopRequest(StopMode.GRACEFUL, "enough", "api", "alice", timezone.now(), run)
    return StopDelivery(run, worker, 1, request)


def test_events_come_in_the_order_of_seq_and_once(
    worker: Worker, start: Start, log: Journal
) -> None:
    @agent("chatty")
    async def chatty(tools: Tools) -> None:
        for n in range(50):
            tools.log(str(n))
            await tools.data_store.set("x", n)

    runs = [start("chatty") for _ in range(20)]
    log.until_over(*runs)
    for run in runs:
        assert [event.seq for event in log.of(run)] == list(range(1, 103))


def test_events_are_committed_before_they_are_published(
    hire: Any, start: Start, log: Journal
) -> None:
    missing: list[Any] = []

    class Reading:
        def event(self, event: Any) -> None:
            if not RunEvent.objects.filter(run=event.run, seq=event.seq).exists():
                missing.append(event)
            assert not connection.in_atomic_block

        def text(self, *_: Any) -> None: ...

        activity = text

    @agent("quick")
    async def quick(tools: Tools) -> None:
        await tools.data_store.get("x")

    reading: Any = Reading()
    notify.add_listener(reading)
    try:
        queued = start("quick")
        stopping.request_stop(queued.pk, via="api", check_permission=False)
        log.over(queued)
        hire()
        log.over(start("quick"))
    finally:
        notify.remove_listener(reading)
    assert not missing


def test_text_is_shown_as_it_streams_and_stored_nowhere(
    llm_server: LLMServer, worker: Worker, start: Start, log: Journal
) -> None:
    @agent("asking")
    async def asking(tools: Tools) -> str:
        return (await tools.call_llm([{"role": "user", "content": "?"}])).text

    run = start("asking")
    assert log.over(run).result == TEXT
    assert "".join(text for id, text in log.texts if id == str(run.pk)) == TEXT
    assert len(log.texts) > 3
    assert [e.type for e in log.of(run)] == ["agent_start", "llm_call", "agent_end"]


class TestMessages:
    def test_a_run_wakes_workers_here_and_elsewhere(
        self, layer: NotingLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[int] = []
        monkeypatch.setattr(local_runs, "_wakers", [lambda: woken.append(1)])
        notify.wake_workers()
        assert woken == [1]
        layer.until(1)
        assert layer.sent == [(notify.WORKERS_GROUP, {"type": "run.wake"})]

    def test_a_stop_goes_to_the_worker_that_has_the_run(self, layer: NotingLayer) -> None:
        here, there = uuid.uuid4(), uuid.uuid4()
        mine, others = [_delivery(here) for _ in range(2)], _delivery(there)
        without_worker = _delivery(None)
        notify.send_stops([mine[0], others, without_worker, mine[1]])
        layer.until(2)
        assert [group for group, _ in layer.sent] == [
            notify.worker_group(here),
            notify.worker_group(there),
        ]
        messages = [message for _, message in layer.sent]
        assert all(message["type"] == "run.stop" for message in messages)
        # As JSON, or any other way that a layer packs its messages.
        received = [json.loads(json.dumps(message))["stops"] for message in messages]
        assert [[StopDelivery.from_message(stop) for stop in stops] for stops in received] == [
            mine,
            [others],
        ]

    def test_a_layer_that_is_down_fails_no_caller(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        tried = threading.Semaphore(0)

        class FailingLayer:
            async def group_send(self, group: str, message: dict[str, Any]) -> None:
                tried.release()
                raise ConnectionError("no redis")

        monkeypatch.setattr(relay, "get_channel_layer", FailingLayer)
        monkeypatch.setattr(notify, "get_channel_layer", FailingLayer)
        with caplog.at_level(logging.WARNING):
            notify.wake_workers()
            assert tried.acquire(timeout=10)
            # What comes while that one fails is given up with it.
            eventually(lambda: not relay.outbox._is_sending)
            notify.send_stops([_delivery(uuid.uuid4())])
            assert tried.acquire(timeout=10)

    def test_the_layer_of_one_process_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Unused(InMemoryChannelLayer):
            async def group_send(self, group: str, message: dict[str, Any]) -> None:
                raise AssertionError("no other process could receive it")

        monkeypatch.setattr(notify, "get_channel_layer", Unused)
        notify.wake_workers()

    def test_of_a_start_that_is_rolled_back_are_not_sent(
        self, layer: NotingLayer, start: Start
    ) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> None: ...

        with transaction.atomic():
            start("quick")
            transaction.set_rollback(True)
        start("quick")
        layer.until(1)
        assert len(layer.sent) == 1


class TestAStart:
    """``send_start``, where other processes can receive messages."""

    @pytest.fixture(autouse=True)
    def full_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker of this process has no capacity left."""
        monkeypatch.setattr(local_runs, "_wakers", [lambda: False])

    def _sent(self, layer: NotingLayer) -> list[tuple[str, dict[str, Any]]]:
        """Return all that was sent: messages leave in order, and one more is the last."""
        last = uuid.uuid4()
        notify.send_ended(last, [])
        layer.until_group(notify.worker_group(last))
        return layer.sent[:-1]

    def test_with_capacity_in_this_process_no_message_is_sent(
        self, layer: NotingLayer, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_worker()
        woken: list[int] = []
        monkeypatch.setattr(local_runs, "_wakers", [lambda: woken.append(1) or True])
        notify.send_start(uuid.uuid4())
        assert woken == [1]
        assert self._sent(layer) == []

    def test_one_worker_elsewhere_with_capacity_gets_the_run(
        self, layer: NotingLayer, transactional_db: None
    ) -> None:
        large, _ = make_worker(capacity=2), make_worker(capacity=1)
        run = uuid.uuid4()
        notify.send_start(run)
        group = notify.worker_group(large.pk)
        assert self._sent(layer) == [(group, {"type": "run.start", "run": str(run)})]

    def test_all_are_woken_if_no_worker_is_known_to_have_capacity(
        self, layer: NotingLayer, transactional_db: None
    ) -> None:
        make_worker(capacity=0)
        notify.send_start(uuid.uuid4())
        assert self._sent(layer) == [(notify.WORKERS_GROUP, {"type": "run.wake"})]

    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    def test_all_are_woken_if_the_database_cannot_be_asked(
        self, error: type[Exception], layer: NotingLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse() -> None:
            raise error("away")

        monkeypatch.setattr(worker_choice.choice, "choose", refuse)
        notify.send_start(uuid.uuid4())
        assert self._sent(layer) == [(notify.WORKERS_GROUP, {"type": "run.wake"})]

    def test_no_worker_is_chosen_if_no_other_process_can_receive_messages(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen: list[int] = []
        monkeypatch.setattr(worker_choice.choice, "choose", lambda: chosen.append(1))
        monkeypatch.setattr(notify, "get_channel_layer", InMemoryChannelLayer)
        notify.send_start(uuid.uuid4())
        assert chosen == []


def test_a_listener_that_is_gone_receives_nothing() -> None:
    listener = Journal()
    notify.add_listener(listener)
    notify.remove_listener(listener)
    notify.remove_listener(listener)
    notify.publish_text("run", "agent", "call", "text")
    assert listener.texts == []
