"""Stops from other processes: the message has all it takes, and is believed only if it fits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import Tools, agent
from agents.cancellation import StopCause, StopMode
from runs.actions import stopping
from runs.consumers import AgentConsumer
from runs.delivery import local_runs, notify, own_runs, relay, stops
from runs.delivery.stop_message import StopDelivery, StopRequest
from runs.delivery.stops import deliver_missed
from runs.models import RunRecord, uuid7
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.running import Gate, Start

WAIT_SECONDS = 10


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunRecord], list[StopDelivery]]:
    """Ask a run to stop as another process would: this process learns of it by message only."""
    sent: list[StopDelivery] = []

    def ask(run: RunRecord) -> list[StopDelivery]:
        with monkeypatch.context() as patch:
            patch.setattr(local_runs, "trip", lambda due: set())
            patch.setattr(notify, "send_stops", sent.extend)
            stopping.request_stop(run.pk, via="api", check_permission=False, reason="enough")
        return sent

    return ask


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def _waits(gate: Gate) -> None:
    @agent("waits")
    async def waits(tools: Tools) -> None:
        await gate.wait()
        await tools.data_store.get("x")


def _deaf(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker find no stop by itself."""
    monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)


def _until_tripped(entry: local_runs.ActiveRun) -> None:
    tripped = threading.Event()
    entry.token.add_callback(lambda _: tripped.set())
    assert tripped.wait(WAIT_SECONDS), "the token was not tripped"


def test_a_message_trips_the_token_without_the_database(
    hire: Any, start: Start, log: Journal, gate: Gate, elsewhere: Any, monkeypatch: Any
) -> None:
    _waits(gate)
    worker = hire()
    _deaf(worker, monkeypatch)
    run = start("waits")
    gate.until_arrived()
    [delivery] = elsewhere(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    asked: list[str] = []

    def tripping(deliveries: Any) -> None:
        def note(execute: Any, sql: str, *rest: Any) -> Any:
            asked.append(sql)
            return execute(sql, *rest)

        with connections["default"].execute_wrapper(note):
            active_trip(deliveries)

    active_trip = local_runs.trip
    monkeypatch.setattr(local_runs, "trip", tripping)
    asyncio.run(_handed_over(worker, delivery))
    _until_tripped(entry)
    assert asked == []
    gate.open()
    ended = log.over(run)
    assert (ended.status, ended.stop_reason) == ("stopped", "enough")
    assert ended.stop_acknowledged_at is not None
    told = [event.data for event in log.of(run) if event.type == "stop_requested"]
    assert told == [delivery.request.as_data()]


@pytest.mark.usefixtures("on_both_databases")
def test_many_that_no_message_has_delivered_cost_the_heartbeat_no_more_queries_than_one(
    hire: Any, start: Start, log: Journal, gate: Gate, monkeypatch: Any
) -> None:
    """It has a lease to renew meanwhile. Trees among them are told from above."""
    _waits(gate)

    @agent("calls")
    async def calls(tools: Tools) -> None:
        await tools.agents.call("waits")

    worker = hire()
    _deaf(worker, monkeypatch)
    monkeypatch.setattr(stops, "deliver", lambda due: None)
    runs = [start("waits") for _ in range(20)] + [start("calls") for _ in range(10)]
    gate.until_arrived(30)
    for run in runs:
        stopping.request_stop(run.pk, via="api", check_permission=False)
    with CaptureQueriesContext(connections["default"]) as queries:
        deliver_missed(own_runs.read(worker.id))
    assert len(queries) == 3
    assert all(entry.token.cause is StopCause.REQUEST for entry in local_runs.all_runs())
    with CaptureQueriesContext(connections["default"]) as queries:
        deliver_missed(own_runs.read(worker.id))
    assert len(queries) == 2, "what was told is told"
    gate.open()
    for run in runs:
        log.over(run)
        assert assert_consistent(run).status == "stopped"


def test_what_is_below_a_run_without_a_message_is_delivered_with_it(
    hire: Any, start: Start, log: Journal, gate: Gate, monkeypatch: Any
) -> None:
    """Its own record may say that it knows: a shutdown has tripped its token before."""
    _waits(gate)

    @agent("calls")
    async def calls(tools: Tools) -> None:
        await tools.agents.call("waits")

    worker = hire()
    _deaf(worker, monkeypatch)
    monkeypatch.setattr(stops, "deliver", lambda due: None)
    run = start("calls")
    gate.until_arrived()
    child = RunRecord.objects.get(parent=run)
    stopping.request_stop(run.pk, via="api", check_permission=False)
    RunRecord.objects.filter(pk=child.pk).update(stop_acknowledged_at=timezone.now())
    deliver_missed(own_runs.read(worker.id))
    entry = local_runs.get(child.pk)
    assert entry is not None
    assert entry.stop is not None
    assert entry.stop.root_request == run.pk
    gate.open()
    log.over(run)
    [told] = [event for event in log.of(child) if event.type == "stop_requested"]
    [observed] = [event for event in log.of(child) if event.type == "stop_observed"]
    assert told.seq < observed.seq


def test_of_another_attempt_or_worker_it_is_not_believed(
    hire: Any, start: Start, log: Journal, gate: Gate, elsewhere: Any, monkeypatch: Any
) -> None:
    _waits(gate)
    worker = hire()
    _deaf(worker, monkeypatch)
    run = start("waits")
    gate.until_arrived()
    [delivery] = elsewhere(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    assert local_runs.trip([replace(delivery, attempt=delivery.attempt + 1)]) == set()
    assert local_runs.trip([replace(delivery, worker=run.pk)]) == set()
    assert not entry.token.stopped
    assert entry.stop is None
    assert local_runs.trip([delivery]) == {run.pk}
    assert entry.token.cause is StopCause.REQUEST
    gate.open()
    log.over(run)


@pytest.mark.parametrize("others", [0, 100])
def test_a_few_stops_are_delivered_where_they_are_received_and_many_in_a_thread(
    others: int, hire: Any, start: Start, log: Journal, gate: Gate, elsewhere: Any, monkeypatch: Any
) -> None:
    _waits(gate)
    worker = hire()
    _deaf(worker, monkeypatch)
    run = start("waits")
    gate.until_arrived()
    [delivery] = elsewhere(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    met_by: list[threading.Thread] = []
    entry.token.add_callback(lambda _: met_by.append(threading.current_thread()))
    elsewhere_too = [replace(delivery, run=uuid7(), worker=run.pk) for _ in range(others)]
    worker.receive_stops([delivery, *elsewhere_too])
    _until_tripped(entry)
    assert (met_by == [threading.current_thread()]) is (others == 0)
    gate.open()
    log.over(run)


def test_a_claim_under_way_holds_up_neither_the_messages_nor_other_stops(
    hire: Any, start: Start, log: Journal, gate: Gate, elsewhere: Any, monkeypatch: Any
) -> None:
    _waits(gate)
    worker = hire()
    _deaf(worker, monkeypatch)
    run = start("waits")
    gate.until_arrived()
    [delivery] = elsewhere(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    unknown = replace(delivery, run=worker.id)  # as if it were being claimed just now
    with _claim_that_waits():
        began = time.monotonic()
        worker.receive_stops([unknown])
        assert time.monotonic() - began < 1
        # In this process a stop of a run that is here does not wait for others to come.
        assert local_runs.trip([delivery]) == {run.pk}
    gate.open()
    log.over(run)


def test_a_run_that_is_being_claimed_is_waited_for(worker: Worker, alice: Any) -> None:
    """Both orders: the message comes while the claim is committed and not registered yet."""
    entry = local_runs.ActiveRun(uuid7(), worker.id)
    request = StopRequest(*(StopMode.GRACEFUL, "enough", "api", None, timezone.now(), entry.id))
    delivery = StopDelivery(entry.id, worker.id, 1, request)
    with _claim_that_waits():
        worker.receive_stops([delivery])
        local_runs.add(entry)
    try:
        _until_tripped(entry)
    finally:
        local_runs.remove(entry.id)


class _claim_that_waits:
    """A claim whose database does not answer until the block ends."""

    def __enter__(self) -> None:
        self._answered, began = threading.Event(), threading.Event()

        def claim() -> None:
            with local_runs.claiming():
                began.set()
                self._answered.wait(WAIT_SECONDS)

        self._thread = threading.Thread(target=claim)
        self._thread.start()
        assert began.wait(WAIT_SECONDS)

    def __exit__(self, *_: Any) -> None:
        self._answered.set()
        self._thread.join()


async def _handed_over(worker: Worker, delivery: StopDelivery) -> None:
    consumer = AgentConsumer()
    consumer.scope = {"worker": worker}
    await consumer.run_stop({"type": "run.stop", "stops": [delivery.as_message()]})


def test_wake_ups_that_wait_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    first, go_on = threading.Event(), threading.Event()
    done = threading.Event()

    class Slow:
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            sent.append(message["type"])
            first.set()
            await asyncio.to_thread(go_on.wait, WAIT_SECONDS)
            if message["type"] == "last":
                done.set()

    monkeypatch.setattr(relay, "get_channel_layer", Slow)
    relay.outbox.send("workers", {"type": "run.wake"}, is_repeated=True)
    assert first.wait(WAIT_SECONDS)
    for _ in range(100):
        relay.outbox.send("workers", {"type": "run.wake"}, is_repeated=True)
    relay.outbox.send("worker", {"type": "run.stop"})
    relay.outbox.send("worker", {"type": "last"})
    go_on.set()
    assert done.wait(WAIT_SECONDS)
    # The first had begun to leave, and might have been before what the second tells of.
    assert sent == ["run.wake", "run.wake", "run.stop", "last"]


def test_a_layer_that_hangs_keeps_no_caller_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    done = threading.Event()
    first = threading.Event()

    class Hanging:
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            if message["number"] == 0:
                first.set()
                await asyncio.sleep(3600)
            sent.append(message["number"])
            done.set()

    monkeypatch.setattr(relay, "get_channel_layer", Hanging)
    monkeypatch.setattr(relay, "SEND_SECONDS", 0.2)
    dropped = relay.outbox.dropped_count
    relay.outbox.send("worker", {"number": 0})
    assert first.wait(WAIT_SECONDS)
    for number in range(1, 2 * relay.MOST_WAITING):
        relay.outbox.send("worker", {"number": number})
    deadline = time.monotonic() + WAIT_SECONDS
    while relay.outbox.dropped_count - dropped < 2 * relay.MOST_WAITING:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sent == []
    relay.outbox.send("worker", {"number": -1})
    assert done.wait(WAIT_SECONDS)
    assert sent == [-1]
