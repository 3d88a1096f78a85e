"""A token that knows its deadline: it admits nothing after it, whatever has happened meanwhile."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from agents import AgentStopped, cancellation, cleanup
from agents.cancellation import CancelToken, Lease, StopCause


class Clock:
    """``time.monotonic()``; a jump is what a frozen process sees."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cancellation, "time", SimpleNamespace(monotonic=clock))
    return clock


def test_it_admits_until_then_and_nothing_from_then_on(token: CancelToken, clock: Clock) -> None:
    token.deadline = clock.now + 5
    clock.now += 4.999
    token.admit()
    clock.now += 0.001
    with pytest.raises(AgentStopped, match="the deadline was reached"):
        token.admit()
    assert (token.stopped, token.mode, token.cause) == (True, "graceful", StopCause.REQUEST)
    assert token.has_reached_deadline
    assert token.observed_at is not None


def test_a_frozen_process_admits_nothing_after_it(token: CancelToken, clock: Clock) -> None:
    token.deadline = clock.now + 5
    token.admit()
    clock.now += 3600
    with pytest.raises(AgentStopped):
        token.admit()


def test_a_later_deadline_counts_if_it_comes_in_time(token: CancelToken, clock: Clock) -> None:
    token.deadline = clock.now + 5
    token.deadline = clock.now + 50
    clock.now += 20
    token.admit()


def test_a_later_deadline_comes_too_late_after_a_refusal(token: CancelToken, clock: Clock) -> None:
    token.deadline = clock.now
    with pytest.raises(AgentStopped):
        token.admit()
    token.deadline = clock.now + 50
    with pytest.raises(AgentStopped):
        token.admit()


def test_a_cleanup_works_after_it(token: CancelToken, clock: Clock) -> None:
    token.deadline = clock.now + 5
    with cleanup(3):
        clock.now += 10
        token.admit()  # its three seconds begin here
        assert token.stopped
        clock.now += 2
        token.admit()
        clock.now += 2
        with pytest.raises(AgentStopped):
            token.admit()


def test_a_person_who_was_faster_stays_the_cause(token: CancelToken, clock: Clock) -> None:
    token.deadline = clock.now
    token.request(reason="enough")
    with pytest.raises(AgentStopped, match="enough"):
        token.admit()
    assert not token.has_reached_deadline


def test_all_that_it_stops_know_of_it_when_they_are_tripped(clock: Clock) -> None:
    """Their logs say so before the stop is observed; one call anywhere below finds it over."""
    top = CancelToken()
    top.deadline = clock.now + 5
    middle = CancelToken(top)
    tokens = [top, middle, CancelToken(middle), CancelToken(top)]
    told: list[bool] = []
    for token in tokens:
        token.add_callback(lambda tripped: told.append(tripped.has_reached_deadline))
    clock.now += 5
    with pytest.raises(AgentStopped):
        tokens[2].admit()
    assert told == [True] * len(tokens)
    assert not CancelToken().has_reached_deadline


def test_a_lease_that_is_over_too_ends_the_claim(clock: Clock) -> None:
    token = CancelToken(lease=Lease(clock.now + 5))
    token.deadline = clock.now + 3
    clock.now += 10
    with pytest.raises(AgentStopped):
        token.admit()
    assert token.cause is StopCause.SHUTDOWN


def test_a_called_run_stops_with_the_caller_whose_deadline_it_has(clock: Clock) -> None:
    root = CancelToken()
    root.deadline = clock.now + 5
    caller = CancelToken(root)
    caller.deadline = clock.now + 9
    below = CancelToken(root)
    assert below.deadline == root.deadline
    clock.now += 5
    with pytest.raises(AgentStopped):
        below.admit()
    assert root.stopped
    assert caller.stopped


def test_a_called_run_with_a_deadline_of_its_own_stops_alone(clock: Clock) -> None:
    root = CancelToken()
    root.deadline = clock.now + 5
    below = CancelToken(root)
    below.deadline = clock.now + 1
    clock.now += 1
    with pytest.raises(AgentStopped):
        below.admit()
    assert not root.stopped


@pytest.mark.parametrize("seed", range(10))
def test_of_ten_thousand_random_ones_none_is_early_and_none_is_twice(
    clock: Clock, seed: int
) -> None:
    """Each with calls, freezes, looks that move the deadline, and sometimes a person's stop."""
    chance = random.Random(seed)
    for _ in range(1_000):
        token = CancelToken()
        trips: list[float] = []
        token.add_callback(lambda _, trips=trips: trips.append(clock.now))  # type: ignore[misc]
        token.deadline = clock.now + chance.uniform(0, 10)
        is_asked = False
        for _ in range(30):
            clock.now += chance.choice([0.0, 0.01, 0.5, chance.uniform(0, 5)])
            match chance.randrange(8):
                case 0 if not token.stopped:
                    token.deadline = max(clock.now, token.deadline + chance.uniform(-3, 3))
                case 1 if chance.random() < 0.1 and not token.stopped:
                    token.request()
                    is_asked = True
            is_over = clock.now >= token.deadline
            try:
                at = token.admit()
            except AgentStopped:
                assert is_asked or token.has_reached_deadline
                assert is_over or trips[0] < clock.now or is_asked, "refused too early"
            else:
                assert not is_over, "admitted after the deadline"
                assert not token.stopped
                assert at == clock.now
        assert len(trips) <= 1
        assert token.has_reached_deadline == (token.stopped and not is_asked)
