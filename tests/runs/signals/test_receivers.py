"""Receivers run in a thread of their own: no other code waits for them or fails with them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.dispatch import Signal

from runs.actions.stopping import request_stop
from runs.exceptions import RunAlreadyFinished
from runs.models import RunRecord
from runs.signals import receivers, run_finished, stop_requested
from tests.support.journal import Journal
from tests.support.rows import make_run

from .conftest import Heard, drain, leave

pytestmark = pytest.mark.usefixtures("echo")

Connect = Callable[[Signal, Callable[..., Any]], None]


@pytest.fixture
def connect() -> Iterator[Connect]:
    connected: list[tuple[Signal, Callable[..., Any]]] = []

    def connect(signal: Signal, receiver: Callable[..., Any]) -> None:
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


@pytest.mark.usefixtures("worker")
def test_a_receiver_that_does_not_return_delays_no_run_and_no_stop(
    start: Callable[..., RunRecord], alice: User, log: Journal, connect: Connect
) -> None:
    is_called, may_return = threading.Event(), threading.Event()

    def slow(**_: Any) -> None:
        is_called.set()
        assert may_return.wait(30)

    connect(run_finished, slow)
    log.over(start("echo"))
    assert is_called.wait(10)
    try:
        log.over(start("echo"))
        queued = make_run(alice, agent="unknown")
        with suppress(RunAlreadyFinished):  # the worker may be first: it knows no such agent
            request_stop(queued.pk, via="api", by=alice)
        assert log.over(queued).status in ("stopped", "error")
    finally:
        may_return.set()
    leave()


def test_a_receiver_that_fails_is_logged_with_its_run(
    alice: User, connect: Connect, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(**_: Any) -> None:
        raise ValueError("of the site")

    connect(stop_requested, failing)
    run = make_run(alice)
    request_stop(run.pk, via="api", by=alice)

    assert heard.names(run) == ["stop_requested", "run_finished"]
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "failing failed for run" in line.getMessage()
    assert (line.name, str(line.__dict__["run"])) == ("runs.signals.receivers", str(run.pk))
    assert line.exc_info


def test_a_receiver_may_be_async(alice: User, connect: Connect) -> None:
    got: list[Any] = []

    async def receive(run: RunRecord, **_: Any) -> None:
        got.append(run.pk)

    connect(run_finished, receive)
    run = make_run(alice)
    request_stop(run.pk, via="api", by=alice)
    drain()

    assert got == [run.pk]


def test_a_receiver_that_exits_ends_no_thread(
    alice: User, connect: Connect, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    def leaving(**_: Any) -> None:
        raise SystemExit

    connect(stop_requested, leaving)
    run = make_run(alice)
    request_stop(run.pk, via="api", by=alice)

    assert "run_finished" in heard.names(run)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


def test_a_receiver_may_query_and_leaves_no_connection(alice: User, connect: Connect) -> None:
    got: list[Any] = []

    def receive(run: RunRecord, **_: Any) -> None:
        got.append((run.owner.get_username(), run.input_record.value))

    connect(stop_requested, receive)
    request_stop(make_run(alice).pk, via="api", by=alice)
    drain()

    assert got == [("alice", {})]
    is_open = receivers._thread.submit(lambda: connection.connection is not None)
    assert not is_open.result(10)


def test_a_receiver_can_not_change_the_record_of_others(alice: User, connect: Connect) -> None:
    def spoiling(run: RunRecord, **_: Any) -> None:
        run.agent = "spoilt"

    connect(stop_requested, spoiling)
    run = make_run(alice)
    receivers.send(stop_requested, [{"run": run}])
    drain()

    assert run.agent == "made"


def test_without_receivers_nothing_is_made() -> None:
    def notices() -> Iterator[Any]:
        raise AssertionError("looked at")
        yield

    receivers.send(run_finished, notices())


def test_a_signal_that_can_not_be_sent_fails_no_caller(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connect(run_finished, lambda **_: None)

    receivers.send(run_finished, [{"status": "without a run"}])

    assert [record.getMessage() for record in caplog.records] == ["a signal can't be sent"]


def test_what_a_slow_receiver_keeps_has_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receivers, "MOST_WAITING", 3)
    may_return = threading.Event()
    done: list[int] = []
    is_called = threading.Event()

    def first() -> None:
        is_called.set()
        assert may_return.wait(30)

    receivers.call_soon(first)
    assert is_called.wait(10)
    for number in range(5):
        receivers.call_soon(lambda number=number: done.append(number))  # type: ignore[misc]
    may_return.set()
    drain()
    assert done == [0, 1, 2]
    assert sum("left out" in record.getMessage() for record in caplog.records) == 2

    receivers.call_soon(lambda: done.append(9))
    drain()
    assert done[-1] == 9
