"""All cleanup() of a run share the time that one stop leaves them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from agents import AgentStopped, cleanup
from agents.cancellation import CancelToken, StopCause, bind_token, is_in_cleanup
from tests.support.parallel import SECONDS


@dataclass
class Clock:
    now: float = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_blocks_in_a_row_end_when_the_first_one_does(token: CancelToken, clock: Clock) -> None:
    token.request()
    clock.now += 1000  # the code computed before it came to its first block
    admitted = 0
    for _ in range(20):
        with cleanup(5):
            try:
                token.admit("call_llm")
            except AgentStopped:
                continue
            admitted += 1
            clock.now += 2  # the call
    assert admitted == 3, "at 0, 2 and 4 s"


def test_time_between_the_blocks_counts(token: CancelToken, clock: Clock) -> None:
    token.request()
    with cleanup(5):
        token.admit()
    clock.now += 5
    with cleanup(5), pytest.raises(AgentStopped):
        token.admit()


def test_the_time_of_blocks_before_the_stop_does_not_count(
    token: CancelToken, clock: Clock
) -> None:
    for _ in range(3):
        with cleanup(5):
            clock.now += 4
    token.request()
    clock.now += 1000
    with cleanup(5):
        clock.now += 4.9
        token.admit()


def test_a_block_that_was_open_at_the_stop_starts_the_time_of_those_after_it(
    token: CancelToken, clock: Clock
) -> None:
    with cleanup(5):
        clock.now += 1000
        token.request()
        clock.now += 3
    with cleanup(5):
        clock.now += 1.9
        assert is_in_cleanup()
        clock.now += 0.1
        assert not is_in_cleanup()


def test_a_longer_one_ends_that_long_after_the_same_instant(
    token: CancelToken, clock: Clock
) -> None:
    token.request()
    with cleanup(5):
        clock.now += 6
        assert not is_in_cleanup()
    with cleanup(8):
        clock.now += 1.9
        assert is_in_cleanup()
        clock.now += 0.1
        assert not is_in_cleanup()
    with cleanup(9):
        assert is_in_cleanup()


def test_a_nested_one_does_not_prolong_it(token: CancelToken, clock: Clock) -> None:
    token.request()
    with cleanup(20):
        clock.now += 4
        with cleanup(5):
            clock.now += 0.9
            assert is_in_cleanup()
            clock.now += 0.1
            assert not is_in_cleanup()
        assert is_in_cleanup()


def test_a_stop_request_after_a_shutdown_gives_no_second_time(
    token: CancelToken, clock: Clock
) -> None:
    token.request(cause=StopCause.SHUTDOWN)
    with cleanup(5):
        clock.now += 4
    token.request("abort", cause=StopCause.REQUEST)
    with cleanup(5):
        clock.now += 1
        assert not is_in_cleanup()


def test_each_run_of_a_tree_has_its_own(token: CancelToken, clock: Clock) -> None:
    child = CancelToken(token)
    token.request()
    with cleanup(5):
        clock.now += 6
        assert not is_in_cleanup()

    def called() -> None:
        bind_token(child)
        with cleanup(5):
            clock.now += 4.9
            assert is_in_cleanup()

    contextvars.Context().run(called)
    with cleanup(5):
        assert not is_in_cleanup()


async def test_parallel_branches_share_it(token: CancelToken, clock: Clock) -> None:
    token.request()
    admitted: list[int] = []

    async def branch(number: int) -> None:
        with cleanup(5):  # the plain one: nothing but the clock ends it
            token.admit()
            admitted.append(number)
            clock.now += 1
            await asyncio.sleep(0)

    branches = await asyncio.gather(*map(branch, range(9)), return_exceptions=True)
    assert admitted == [0, 1, 2, 3, 4]
    assert [type(end) for end in branches[5:]] == [AgentStopped] * 4


async def test_a_late_block_of_a_coroutine_is_cut_at_its_first_await(token: CancelToken) -> None:
    token.request()

    async def save() -> None:
        async with cleanup(seconds=0.02):
            async with asyncio.timeout(SECONDS):
                await asyncio.Event().wait()

    for _ in range(3):
        with pytest.raises(AgentStopped, match="cleanup was cut"):
            await save()
    started = asyncio.get_running_loop().time()
    with pytest.raises(AgentStopped):
        await save()
    assert asyncio.get_running_loop().time() - started < 0.02, "its time had been used up"
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


def test_blocks_in_threads_share_it(token: CancelToken, clock: Clock) -> None:
    token.request()
    both = threading.Barrier(2, timeout=SECONDS)
    found: list[tuple[bool, bool]] = []

    def work() -> None:
        both.wait()
        with cleanup(5):
            both.wait()
            before = is_in_cleanup()
            if both.wait() == 0:
                clock.now += 5
            both.wait()
        with cleanup(5):
            found.append((before, is_in_cleanup()))

    _in_threads(work, work)
    assert found == [(True, False), (True, False)]


@pytest.mark.parametrize("stop_comes", ["before", "after"])
def test_a_stop_as_a_block_begins_starts_the_time_once(
    token: CancelToken, clock: Clock, stop_comes: str
) -> None:
    """Both orders of the race between the stop and the entry, which add_callback decides."""
    entered = cleanup(5)
    if stop_comes == "before":
        token.request()
        clock.now += 1
    with entered:
        if stop_comes == "after":
            clock.now += 1
            token.request()
        clock.now += 3
    with cleanup(5):
        clock.now += 1.9
        assert is_in_cleanup()
        clock.now += 0.1
        assert not is_in_cleanup()


def _in_threads(*work: Callable[[], None]) -> None:
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=[each]) for each in work
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
