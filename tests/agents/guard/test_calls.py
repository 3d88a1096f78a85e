"""One call."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from agents import AgentStopped, cleanup
from agents.guard import current_call
from tests.support.agent_run import AgentRun


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (ValueError("bad"), "error"),
        (AgentStopped("enough"), "stopped"),
        (asyncio.CancelledError(), "aborted"),
        (GeneratorExit(), "aborted"),
        (SystemExit(1), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_a_call_leaves_one_event_that_says_how_it_ended(
    run: AgentRun, error: BaseException | None, outcome: str
) -> None:
    def call() -> None:
        with run.guard.call("data_store.get", "default/a", namespace="default") as call:
            call.data["key"] = "a"
            assert [c["call"] for c in run.trace.in_flight()] == [call.id]
            assert current_call() is call
            if error is not None:
                raise error
        assert current_call() is None

    with contextlib.suppress(BaseException):
        run.call(call)
    data = run.only("data_store")
    assert data.pop("duration_ms") >= 0
    assert data.pop("started_at").endswith("+00:00")
    expected: dict[str, Any] = {
        "call": data["call"],
        "tool": "data_store.get",
        "label": "default/a",
        "outcome": outcome,
        "namespace": "default",
        "key": "a",
    }
    if outcome == "error":
        expected["error"] = {"type": type(error).__name__, "message": str(error)}
    assert data == expected
    assert run.trace.in_flight() == []
    assert run.sink.activities == [1, 0]


@pytest.mark.parametrize(
    ("tool", "event"),
    [
        ("call_llm", "llm_call"),
        ("http", "http"),
        ("agents.call", "agent_call"),
        ("data_store.set", "data_store"),
    ],
)
def test_each_tool_has_its_type_of_event(run: AgentRun, tool: str, event: str) -> None:
    with run.guard.call(tool):
        pass
    assert run.only(event)["tool"] == tool


def test_an_exception_that_cant_be_printed_is_reported_all_the_same(run: AgentRun) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    with pytest.raises(Unprintable), run.guard.call("http"):
        raise Unprintable
    assert run.only("http")["error"]["type"] == "Unprintable"


def test_a_refused_call_leaves_no_event_of_its_own_but_the_first_refusal(run: AgentRun) -> None:
    run.stop()
    for number in range(3):
        with pytest.raises(AgentStopped, match="enough"), run.guard.call("http", f"GET {number}"):
            raise AssertionError("it was let through")
    assert [event.type for event in run.sink.events] == ["stop_observed"]
    assert run.only("stop_observed") == {"tool": "http", "label": "GET 0"}
    assert run.trace.in_flight() == []
    assert run.sink.activities == []


def test_a_check_refuses_without_making_a_call(run: AgentRun) -> None:
    run.guard.check("http")
    assert run.sink.events == []
    run.stop()
    with pytest.raises(AgentStopped):
        run.guard.check("http", "retry")
    assert run.only("stop_observed") == {"tool": "http", "label": "retry"}


def test_a_call_within_cleanup_says_so_and_is_not_counted_as_late(run: AgentRun) -> None:
    def save() -> None:
        with cleanup():
            with run.guard.call("http"):
                pass
            run.stop()
            with run.guard.call("data_store.set"):
                pass

    run.call(save)
    assert "cleanup" not in run.only("http")
    assert run.only("data_store")["cleanup"] is True
    assert run.guard.calls_started_after_acknowledgement == 0


def test_a_call_that_cleanup_lets_through_in_its_last_moment_is_not_counted_as_late(
    run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_once = iter([True])
    monkeypatch.setattr(cleanup, "is_open", property(lambda self: next(open_once, False)))
    run.stop()

    def save() -> None:
        with cleanup(), run.guard.call("data_store.set"):
            pass

    run.call(save)
    assert run.guard.calls_started_after_acknowledgement == 0
    assert run.only("data_store")["cleanup"] is True


def test_a_call_that_was_let_through_too_late_is_counted(
    run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is measured: with an admission that is broken it isn't 0."""
    run.stop()
    monkeypatch.setattr(type(run.token), "admit", lambda self, *args, **options: float("inf"))
    with run.guard.call("http"):
        pass
    assert run.guard.calls_started_after_acknowledgement == 1
