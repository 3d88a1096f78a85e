"""A request."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cancellation import (
    CancelToken,
    StopCause,
    StopMode,
)
from tests.support.parallel import MODES, in_parallel


def test_a_new_token_is_not_stopped() -> None:
    token = CancelToken()
    assert not token.stopped
    assert token.mode is token.cause is token.acknowledged_at is token.observed_at is None


def test_a_request_says_how_why_and_when() -> None:
    token = CancelToken()
    before = datetime.now(UTC)
    assert token.request("abort", "too dear") is True
    assert (token.stopped, token.mode, token.reason) == (True, StopMode.ABORT, "too dear")
    assert token.cause is StopCause.REQUEST
    assert token.acknowledged_at is not None
    assert before <= token.acknowledged_at <= datetime.now(UTC)
    assert token.acknowledged_monotonic is not None
    assert token.acknowledged_monotonic <= time.monotonic()
    assert token.observed_at is None


def test_an_unknown_mode_is_refused_and_changes_nothing() -> None:
    token = CancelToken()
    with pytest.raises(ValueError, match="gently"):
        token.request("gently")
    assert not token.stopped


def test_a_second_request_changes_neither_reason_nor_instant() -> None:
    token = CancelToken()
    token.request(reason="first")
    first = (token.acknowledged_at, token.acknowledged_monotonic)
    assert token.request(reason="second") is False
    assert token.reason == "first"
    assert (token.acknowledged_at, token.acknowledged_monotonic) == first


@given(st.lists(st.tuples(st.sampled_from(MODES), st.sampled_from(list(StopCause))), min_size=1))
def test_requests_only_ever_escalate(requests: list[tuple[StopMode, StopCause]]) -> None:
    token = CancelToken()
    calls: list[tuple[StopMode | None, StopCause | None]] = []
    token.add_callback(lambda token: calls.append((token.mode, token.cause)))
    reasons: list[str] = []
    for number, (mode, cause) in enumerate(requests):
        before = (token.mode, token.cause)
        changed = token.request(mode, str(number), cause=cause)
        assert changed == (before != (token.mode, token.cause))
        reasons.append(token.reason)
    assert token.mode == max((mode for mode, _ in requests), key=lambda mode: mode.rank)
    requested = [number for number, (_, cause) in enumerate(requests) if cause is StopCause.REQUEST]
    assert token.cause is (StopCause.REQUEST if requested else StopCause.SHUTDOWN)
    # The reason is that of the first stop request; without one, of the first shutdown.
    assert token.reason == str(requested[0] if requested else 0)
    # A callback for each change, and none for what changed nothing.
    assert len(calls) == len(set(calls))
    assert calls[-1] == (token.mode, token.cause)


def test_a_stop_request_after_a_shutdown_brings_its_own_reason_and_keeps_the_instant() -> None:
    token = CancelToken()
    token.request(reason="the worker goes away", cause=StopCause.SHUTDOWN)
    at = token.acknowledged_at
    assert token.request(reason="enough", cause=StopCause.REQUEST) is True
    assert (token.cause, token.reason, token.acknowledged_at) == (StopCause.REQUEST, "enough", at)
    assert token.request(reason="again", cause=StopCause.SHUTDOWN) is False
    assert (token.cause, token.reason) == (StopCause.REQUEST, "enough")


def test_a_reader_that_sees_the_token_stopped_sees_the_rest_too() -> None:
    for _ in range(300):
        token = CancelToken()

        def look(token: CancelToken = token) -> tuple[Any, ...]:
            while not token.stopped:
                pass
            return token.mode, token.cause, token.reason, token.acknowledged_at is None

        seen, _changed = in_parallel(look, lambda token=token: token.request(reason="enough"))
        assert seen == (StopMode.GRACEFUL, StopCause.REQUEST, "enough", False)


def test_of_many_requests_at_once_exactly_one_counts_per_rung() -> None:
    for _ in range(200):
        token = CancelToken()
        calls: list[str] = []
        token.add_callback(lambda token, calls=calls: calls.append(str(token.mode)))
        answers = in_parallel(*[lambda token=token: token.request("graceful")] * 4)
        assert sorted(answers) == [False, False, False, True]
        assert calls == ["graceful"]


def test_a_graceful_and_an_abort_request_at_once_end_as_abort_in_either_order() -> None:
    for _ in range(300):
        token = CancelToken()
        modes: list[StopMode | None] = []
        token.add_callback(lambda token, modes=modes: modes.append(token.mode))
        graceful, abort = in_parallel(
            lambda token=token: token.request("graceful"),
            lambda token=token: token.request("abort"),
        )
        assert abort is True
        assert token.mode is StopMode.ABORT
        assert modes[-1] is StopMode.ABORT
        assert len(modes) == 1 + graceful
    token = CancelToken()  # the order that the threads may not have hit upon
    assert (token.request("abort"), token.request("graceful")) == (True, False)
    token = CancelToken()
    assert (token.request("graceful"), token.request("abort")) == (True, True)
