"""A stop that became harder, on its way to the token and the log of its run."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agents.cancellation import CancelToken, StopCause, StopMode
from agents.guard import Guard
from agents.trace import Event, Trace
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopDelivery, StopRequest
from runs.models import uuid7

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
GRACEFUL = StopRequest(StopMode.GRACEFUL, "enough", "api", "alice", AT, uuid7())
ABORT = replace(GRACEFUL, mode=StopMode.ABORT, escalated_by="bob", escalated_at=AT)
PLANNED = replace(ABORT, escalated_by=None, planned=True)


class Sink:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def activity(self, trace: Trace) -> None: ...

    def text(self, trace: Trace, call: str, text: str) -> None: ...


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> uuid.UUID:
    monkeypatch.setattr(local_runs, "_runs", {})
    return uuid7()


def here(worker: uuid.UUID, parent: ActiveRun | None = None) -> tuple[ActiveRun, list[Event]]:
    """Add a run that is executed in this process; return it and its log."""
    entry, sink = ActiveRun(uuid7(), worker), Sink()
    if parent is not None:
        entry.token = CancelToken(parent.token)
    entry.guard = Guard(entry.token, Trace(str(entry.id), "made", sink))
    local_runs.add(entry)
    return entry, sink.events


def to(entry: ActiveRun, request: StopRequest) -> StopDelivery:
    return StopDelivery(entry.id, entry.worker, entry.attempt, request)


def told(log: list[Event]) -> list[Any]:
    requests = [event.data for event in log if event.type == "stop_requested"]
    return [(data["mode"], data.get("escalated_by")) for data in requests]


def test_each_mode_is_logged_once_in_whatever_order_it_comes(worker: uuid.UUID) -> None:
    entry, log = here(worker)
    for request in (GRACEFUL, GRACEFUL, ABORT, GRACEFUL, ABORT):
        local_runs.trip([to(entry, request)])
    assert told(log) == [("graceful", None), ("abort", "bob")]
    assert (entry.token.mode, entry.token.cause) == (StopMode.ABORT, StopCause.REQUEST)


def test_a_first_request_that_was_missed_is_logged_with_the_harder_one(worker: uuid.UUID) -> None:
    entry, log = here(worker)
    local_runs.trip([to(entry, PLANNED)])
    assert told(log) == [("graceful", None), ("abort", None)]
    assert [event.data.get("planned") for event in log] == [None, True]
    assert [event.data["requested_at"] for event in log] == [AT.isoformat()] * 2


def test_a_run_below_keeps_a_harder_stop_of_its_own(worker: uuid.UUID) -> None:
    parent, above = here(worker)
    child, below = here(worker, parent)
    local_runs.trip([to(parent, GRACEFUL), to(child, ABORT)])
    assert (parent.token.mode, child.token.mode) == (StopMode.GRACEFUL, StopMode.ABORT)
    assert told(above) == [("graceful", None)]
    assert told(below) == [("graceful", None), ("abort", "bob")]


def test_a_run_without_a_log_gets_its_request_when_it_has_one(worker: uuid.UUID) -> None:
    entry, log = here(worker)
    guard, entry.guard = entry.guard, None
    local_runs.trip([to(entry, ABORT)])
    entry.guard = guard
    entry.log_stop()
    entry.log_stop()
    assert told(log) == [("graceful", None), ("abort", "bob")]


@pytest.mark.parametrize("request_", [GRACEFUL, ABORT, PLANNED])
def test_a_message_says_all_of_it(worker: uuid.UUID, request_: StopRequest) -> None:
    delivery = StopDelivery(uuid7(), worker, 3, request_)
    assert StopDelivery.from_message(delivery.as_message()) == delivery


def test_a_message_of_an_older_release_is_understood(worker: uuid.UUID) -> None:
    message = StopDelivery(uuid7(), worker, 3, GRACEFUL).as_message()
    for name in ("escalated_by", "escalated_at", "planned"):
        del message["request"][name]
    assert StopDelivery.from_message(message).request == GRACEFUL
