"""The process that runs an agent, and the text of it that others ask for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from agents.guard import Guard
from agents.trace import Trace
from runs.delivery import feeds, local_runs, notify, relay
from runs.delivery.local_runs import ActiveRun
from tests.support.relay_queue import RelayQueue


class _Sink:
    """Publishes the text of a trace, as a recorder does."""

    def event(self, event: Any) -> None: ...

    def activity(self, trace: Trace) -> None: ...

    def text(self, trace: Trace, call: str, text: str) -> None:
        notify.publish_text(trace.run, trace.agent, call, text)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> RelayQueue:
    monkeypatch.setattr(feeds, "sender", feeds.FeedSender())
    return RelayQueue(monkeypatch)


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = _trace()
    yield trace
    local_runs.remove(uuid.UUID(trace.run))


def _trace() -> Trace:
    run = uuid.uuid4()
    trace = Trace(str(run), "talker", _Sink())
    entry = ActiveRun(run, uuid.uuid4())
    entry.guard = Guard(entry.token, trace)
    local_runs.add(entry)
    return trace


def _call(trace: Trace) -> str:
    return trace.begin("call_llm", "m", datetime.now(UTC))


def _texts(queue: RelayQueue) -> list[tuple[str, int, str]]:
    """Return call, start and text of what the feeds were sent since the last time."""
    found = []
    for group, message in queue.take():
        assert group == relay.FEED_GROUP
        assert message["type"] == "feed.text"
        found += [(call, start, text) for _, _, call, start, text in message["pieces"]]
    return found


def test_nothing_is_sent_unless_it_was_asked_for(queue: RelayQueue, trace: Trace) -> None:
    trace.text(_call(trace), "word")
    notify.publish_progress([trace.run])
    assert not queue.due
    assert not queue.sent


def test_a_request_is_answered_with_what_was_said_and_then_with_what_is_new(
    queue: RelayQueue, trace: Trace
) -> None:
    call = _call(trace)
    trace.text(call, "Once ")
    feeds.sender.request({trace.run: {}})
    queue.pass_time()
    assert _texts(queue) == [(call, 0, "Once ")]
    for word in ("upon ", "a ", "time"):
        trace.text(call, word)
    queue.pass_time()
    assert _texts(queue) == [(call, 5, "upon a time")]  # in one piece
    queue.pass_time()
    assert _texts(queue) == []
    trace.end(call)
    trace.text(call, "too late")
    queue.pass_time()
    assert _texts(queue) == []


def test_what_one_process_lacks_is_sent_again(queue: RelayQueue, trace: Trace) -> None:
    call = _call(trace)
    trace.text(call, "Once upon a time")
    feeds.sender.request({trace.run: {}})
    queue.pass_time()
    assert _texts(queue) == [(call, 0, "Once upon a time")]
    feeds.sender.request({trace.run: {call: 16}})
    queue.pass_time()
    assert _texts(queue) == [], "it has all of it"
    feeds.sender.request({trace.run: {call: 5}})
    queue.pass_time()
    assert _texts(queue) == [(call, 5, "upon a time")], "the last message was lost"
    feeds.sender.request({trace.run: {}})
    feeds.sender.request({trace.run: {call: 16}})
    queue.pass_time()
    assert _texts(queue) == [(call, 0, "Once upon a time")], "one of two has nothing"


def test_a_process_that_has_some_of_it_is_sent_the_rest(queue: RelayQueue, trace: Trace) -> None:
    call = _call(trace)
    trace.text(call, "Once upon a time")
    feeds.sender.request({trace.run: {call: 10}})
    queue.pass_time()
    assert _texts(queue) == [(call, 10, "a time")]


def test_very_much_comes_in_several_messages(
    queue: RelayQueue, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MOST_CHARACTERS", 10)
    feeds.sender.request({trace.run: {}})
    calls = [_call(trace) for _ in range(2)]
    for call in calls:
        trace.text(call, "abcdefghijklmno")
    got = dict.fromkeys(calls, "")
    for _ in range(5):
        queue.pass_time()
        pieces = _texts(queue)
        assert sum(len(text) for _, _, text in pieces) <= 10
        for call, start, text in pieces:
            assert start == len(got[call])
            got[call] += text
    assert set(got.values()) == {"abcdefghijklmno"}


def test_many_runs_share_a_message(queue: RelayQueue) -> None:
    traces = [_trace() for _ in range(5)]
    try:
        for trace in traces:
            trace.text(_call(trace), "word")
        feeds.sender.request({trace.run: {} for trace in traces})
        queue.pass_time()
        ((_, message),) = queue.take()
    finally:
        for trace in traces:
            local_runs.remove(uuid.UUID(trace.run))
    assert [run for run, *_ in message["pieces"]] == [trace.run for trace in traces]
    assert message["from"] == relay.PROCESS


def test_a_process_that_stops_asking_is_forgotten(
    queue: RelayQueue, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(feeds.time, "monotonic", lambda: now)
    call = _call(trace)
    feeds.sender.request({trace.run: {}})
    queue.pass_time()
    now += feeds.WANTED_SECONDS + 1
    trace.text(call, "word")
    queue.pass_time()
    assert _texts(queue) == []
    assert not queue.due
    assert not feeds.sender.is_wanted(trace.run)


def test_what_is_in_flight_is_sent_once_it_is_committed(
    queue: RelayQueue, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(feeds.sender, "tell_of_log", told.append)
    notify.publish_progress([trace.run])
    assert told == []
    feeds.sender.request({trace.run: {}})
    notify.publish_progress([trace.run, str(uuid.uuid4())])
    assert told == [trace.run]
