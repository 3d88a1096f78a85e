"""Callbacks and observers."""

from __future__ import annotations

import gc
import logging
import threading

import pytest

from agents import AgentStopped
from agents.cancellation import (
    CancelToken,
    StopCause,
    StopMode,
)
from tests.support.parallel import SECONDS, in_parallel


def test_a_callback_is_called_at_the_request_and_at_each_escalation() -> None:
    token = CancelToken()
    modes: list[tuple[StopMode | None, StopCause | None]] = []
    token.add_callback(lambda token: modes.append((token.mode, token.cause)))
    token.request("graceful", cause=StopCause.SHUTDOWN)
    token.request("graceful", cause=StopCause.SHUTDOWN)
    token.request("graceful", cause=StopCause.REQUEST)
    token.request("abort")
    token.request("graceful")
    token.request("abandon")
    assert modes == [
        (StopMode.GRACEFUL, StopCause.SHUTDOWN),
        (StopMode.GRACEFUL, StopCause.REQUEST),
        (StopMode.ABORT, StopCause.REQUEST),
        (StopMode.ABANDON, StopCause.REQUEST),
    ]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    token = CancelToken()
    token.request()
    calls: list[CancelToken] = []
    token.add_callback(calls.append)
    assert calls == [token]


def test_a_callback_added_while_a_stop_comes_is_called_exactly_once() -> None:
    for _ in range(300):
        token = CancelToken()
        calls: list[CancelToken] = []
        in_parallel(
            lambda token=token, calls=calls: token.add_callback(calls.append),
            lambda token=token: token.request(),
        )
        assert calls == [token]


def test_a_callback_that_was_removed_is_not_called() -> None:
    token = CancelToken()
    calls: list[CancelToken] = []
    token.add_callback(calls.append)
    token.remove_callback(calls.append)
    token.remove_callback(calls.append)
    token.request()
    assert calls == []


def test_callbacks_may_use_the_token_and_make_children() -> None:
    token = CancelToken()
    sibling = CancelToken(token)
    done = threading.Event()

    def callback(token: CancelToken) -> None:
        token.request("abort")  # each of these takes the lock
        CancelToken(sibling)
        token.observe()
        done.set()

    token.add_callback(callback)
    thread = threading.Thread(target=token.request, daemon=True)
    thread.start()
    assert done.wait(SECONDS), "a callback runs under the lock"
    thread.join(SECONDS)
    assert token.mode is StopMode.ABORT


def test_a_callback_that_fails_keeps_no_other_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = CancelToken()
    calls: list[CancelToken] = []

    def fail(token: CancelToken) -> None:
        raise ValueError("a bug")

    token.add_callback(fail)
    token.add_callback(calls.append)
    with caplog.at_level(logging.ERROR):
        assert token.request() is True
    assert calls == [token]
    assert "a bug" in caplog.text


def test_the_stop_is_observed_once_and_tells_where() -> None:
    token = CancelToken()
    observed: list[tuple[str, str]] = []
    token.add_observer(lambda tool, label: observed.append((tool, label)))
    token.request()
    assert observed == []
    for _ in range(2):
        with pytest.raises(AgentStopped):
            token.admit("http", "GET example.org")
    first = token.observed_at
    token.observe("later")
    assert observed == [("http", "GET example.org")]
    assert token.observed_at is first


def test_of_many_threads_that_meet_the_stop_one_is_the_first() -> None:
    for _ in range(200):
        token = CancelToken()
        observed: list[str] = []
        token.add_observer(lambda tool, label, observed=observed: observed.append(tool))
        token.request()
        in_parallel(*[lambda token=token: token.observe("x")] * 4)
        assert observed == ["x"]


def test_a_token_can_be_used_by_what_the_garbage_collector_ends_while_it_is_in_use() -> None:
    """A suspended coroutine is ended by the collector, in whichever code it happens to run."""

    class Finalised:
        def __init__(self, token: CancelToken) -> None:
            self.token = token
            self.itself = self

        def __del__(self) -> None:
            self.token.observe("del")
            ended.set()

    ended = threading.Event()
    token = CancelToken()
    token.request()
    Finalised(token)

    def collect_under_the_lock() -> None:
        with token._lock:
            gc.collect()

    thread = threading.Thread(target=collect_under_the_lock, daemon=True)
    thread.start()
    assert ended.wait(SECONDS), "the thread waits for a lock that it holds itself"
    thread.join(SECONDS)
