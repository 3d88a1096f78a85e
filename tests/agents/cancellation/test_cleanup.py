"""Cleanup()."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from agents import AgentStopped, check_should_stop, cleanup, should_stop
from agents.cancellation import (
    CancelToken,
    Lease,
    StopCause,
    bind_token,
    has_cleanup,
    is_in_cleanup,
    leave_cleanup,
)
from tests.support.parallel import SECONDS


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        cleanup(seconds)


async def test_within_cleanup_guards_let_through_and_should_stop_still_says_true(
    token: CancelToken,
) -> None:
    token.request()
    async with cleanup():
        token.admit("data_store.set")
        check_should_stop()
        assert token.observed_at is None, "letting through is no observation"
        assert is_in_cleanup()
        assert should_stop() is True
        assert token.observed_at is not None
    assert not is_in_cleanup()
    with pytest.raises(AgentStopped):
        token.admit()


def test_within_cleanup_of_a_def_agent_guards_let_through_and_refuse_afterwards(
    token: CancelToken,
) -> None:
    token.request()
    with cleanup():
        token.admit("data_store.set")
        check_should_stop()
        assert should_stop() is True
    with pytest.raises(AgentStopped):
        check_should_stop()


async def test_what_is_never_allowed_in_cleanup_is_refused_there(token: CancelToken) -> None:
    token.request()
    async with cleanup():
        with pytest.raises(AgentStopped):
            token.admit("agents.call", in_cleanup=False)


async def test_at_its_limit_the_await_in_progress_is_cut_and_guards_refuse(
    token: CancelToken,
) -> None:
    token.request()
    refused: list[bool] = []

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                await forever()
            finally:
                with pytest.raises(AgentStopped):
                    token.admit()
                refused.append(True)

    with pytest.raises(AgentStopped, match=r"cut after 0\.02 s"):
        await save()
    assert refused == [True]
    await asyncio.sleep(0)  # nothing of the cut is left over
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_from_its_cut_on_it_is_over_whatever_the_clock_says(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may fire a timer a moment before its time."""
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: 100.0))
    token.request()

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                await forever()
            finally:
                assert not is_in_cleanup()

    with pytest.raises(AgentStopped):
        await save()


async def test_the_time_runs_from_the_stop_when_that_comes_later(token: CancelToken) -> None:
    async with cleanup(seconds=0.02) as block:
        assert block._deadline is None, "without a stop there is no limit"
        assert block.is_open

    async def save() -> None:
        async with cleanup(seconds=0.05):
            asyncio.get_running_loop().call_soon(token.request)
            await forever()

    with pytest.raises(AgentStopped):
        await save()
    assert token.acknowledged_monotonic is not None
    assert time.monotonic() - token.acknowledged_monotonic >= 0.05


async def test_a_stop_from_another_thread_starts_the_time(token: CancelToken) -> None:
    entered = threading.Event()
    stopping = asyncio.get_running_loop().run_in_executor(
        None, lambda: entered.wait(SECONDS) and token.request()
    )

    async def save() -> None:
        async with cleanup(seconds=0.02):
            entered.set()
            await forever()

    with pytest.raises(AgentStopped):
        await save()
    assert await stopping is True


def test_in_a_thread_guards_refuse_from_the_limit_on(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    with cleanup(seconds=5):
        clock.now += 1000
        token.request()
        clock.now += 4.9
        token.admit()
        check_should_stop()
        clock.now += 0.1
        with pytest.raises(AgentStopped):
            token.admit()
        with pytest.raises(AgentStopped):
            check_should_stop()


def test_the_clock_runs_from_the_entry_when_the_stop_was_earlier(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    token.request()
    clock.now += 1000
    with cleanup(seconds=5):
        clock.now += 4.9
        assert is_in_cleanup()
        clock.now += 0.2
        assert not is_in_cleanup()


@pytest.mark.parametrize("mode", ["graceful", "abort"])
def test_an_escalation_below_abandon_neither_shortens_nor_prolongs_it(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    token.request("graceful", cause=StopCause.SHUTDOWN)
    with cleanup(seconds=5):
        clock.now += 3
        token.request(mode, cause=StopCause.REQUEST)
        assert is_in_cleanup()
        clock.now += 2.1
        assert not is_in_cleanup()


async def test_abandon_ends_it_at_once(token: CancelToken) -> None:
    token.request()

    async def save() -> None:
        async with cleanup(seconds=1000):
            asyncio.get_running_loop().call_soon(token.request, "abandon")
            await forever()

    with pytest.raises(AgentStopped):
        await save()
    with pytest.raises(AgentStopped), cleanup(seconds=1000):
        check_should_stop()


async def test_a_nested_one_that_ends_first_is_cut_alone(token: CancelToken) -> None:
    token.request()
    async with cleanup(seconds=1000):
        with pytest.raises(AgentStopped):
            async with cleanup(seconds=0.02):
                await forever()
        token.admit()


async def test_the_outer_one_ends_what_is_nested_in_it(token: CancelToken) -> None:
    token.request()
    steps: list[str] = []

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                async with cleanup(seconds=1000) as inner:
                    try:
                        await forever()
                    finally:
                        assert not inner.is_open
                        steps.append("cut")
            finally:
                steps.append("out of the inner one")

    with pytest.raises(AgentStopped, match=r"0\.02"):
        await save()
    assert steps == ["cut", "out of the inner one"]


async def test_a_block_that_swallows_its_cut_goes_on_and_is_refused(token: CancelToken) -> None:
    token.request()
    async with cleanup(seconds=0.02):
        with pytest.raises(asyncio.CancelledError):
            await forever()
        with pytest.raises(AgentStopped):
            check_should_stop()
        await asyncio.sleep(0)  # it may still await
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_task_of_its_own_may_clean_up(token: CancelToken) -> None:
    token.request()

    async def save(seconds: float) -> None:
        async with cleanup(seconds):
            token.admit()
            await forever()

    with pytest.raises(BaseExceptionGroup) as failed:
        async with asyncio.TaskGroup() as group:
            group.create_task(save(0.02))
    assert [type(error) for error in failed.value.exceptions] == [AgentStopped]


async def test_a_task_that_outlives_the_block_is_not_let_through_any_more(
    token: CancelToken,
) -> None:
    token.request()
    go_on = asyncio.Event()

    async def late() -> None:
        token.admit()
        await go_on.wait()
        assert has_cleanup()
        assert not is_in_cleanup()
        token.admit()

    async with cleanup():
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(AgentStopped):
        await task


async def test_a_called_agent_does_not_inherit_its_callers(token: CancelToken) -> None:
    token.request()

    async def called() -> bool:
        leave_cleanup()
        return is_in_cleanup()

    async with cleanup():
        assert await asyncio.create_task(called()) is False
        assert is_in_cleanup()


@pytest.mark.parametrize("own_is_outside", [True, False])
async def test_an_own_time_limit_works_around_it_and_inside_it(
    token: CancelToken, own_is_outside: bool
) -> None:
    token.request()

    async def save() -> None:
        if own_is_outside:
            async with asyncio.timeout(0.02), cleanup(seconds=1000):
                await forever()
        else:
            async with cleanup(seconds=1000), asyncio.timeout(0.02):
                await forever()

    with pytest.raises(TimeoutError):
        await save()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("own_is_outside", [True, False])
async def test_an_own_time_limit_that_is_longer_leaves_the_cut_alone(
    token: CancelToken, own_is_outside: bool
) -> None:
    token.request()

    async def save() -> None:
        if own_is_outside:
            async with asyncio.timeout(1000), cleanup(seconds=0.02):
                await forever()
        else:
            async with cleanup(seconds=0.02), asyncio.timeout(1000):
                await forever()

    with pytest.raises(AgentStopped):
        await save()


async def test_a_cancellation_from_outside_stays_one_within_cleanup(token: CancelToken) -> None:
    token.request()
    entered = asyncio.Event()

    async def save() -> None:
        async with cleanup(seconds=1000):
            entered.set()
            await forever()

    task = asyncio.create_task(save())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_exception_of_the_block_comes_out_as_it_is(token: CancelToken) -> None:
    token.request()
    with pytest.raises(ZeroDivisionError):
        async with cleanup():
            _ = 1 / 0
    assert not is_in_cleanup()
    assert not token._callbacks, "it has forgotten to take its callback away"


async def test_a_block_can_be_entered_once_only(token: CancelToken) -> None:
    block = cleanup()
    async with block:
        with pytest.raises(RuntimeError, match="entered twice"):
            await block.__aenter__()
        with pytest.raises(RuntimeError, match="entered twice"):
            block.__enter__()
        assert block.is_open
    with pytest.raises(RuntimeError, match="entered twice"):
        block.__enter__()
    with pytest.raises(RuntimeError, match="entered twice"):
        await block.__aenter__()


async def test_a_block_that_is_left_in_another_context_is_closed_all_the_same(
    token: CancelToken,
) -> None:
    """An async generator that no code reads to its end is closed by a task of its own."""
    blocks: list[cleanup] = []

    async def pages() -> AsyncIterator[int]:
        with cleanup() as block:
            blocks.append(block)
            yield 1
            yield 2

    reading = pages()
    await anext(reading)
    await asyncio.create_task(reading.aclose())  # type: ignore[attr-defined]
    assert not blocks[0].is_open


async def test_a_stop_after_the_end_of_the_block_does_nothing_to_it(token: CancelToken) -> None:
    async with cleanup(seconds=0.001) as block:
        pass
    token.request()
    await asyncio.sleep(0)
    assert block._deadline is None


async def test_a_stop_at_the_very_end_of_the_block_cuts_nothing_that_follows(
    token: CancelToken,
) -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    async with cleanup(seconds=0.001):
        token.request()  # has asked the loop to set the cut, and the block is over before
    await asyncio.sleep(0.005)  # for the timer that must not be there
    assert complaints == []
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


def test_a_stop_after_the_loop_was_closed_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    token = CancelToken()

    async def leave_open() -> cleanup:
        bind_token(token)
        block = cleanup()
        await block.__aenter__()
        return block

    block = asyncio.run(leave_open())
    with caplog.at_level(logging.WARNING):
        assert token.request() is True
    assert caplog.records == []
    assert block._deadline is not None


async def forever() -> None:
    """Wait for an event that never comes; a test that relies on a cut fails after some seconds."""
    async with asyncio.timeout(SECONDS):
        await asyncio.Event().wait()
    raise AssertionError("nothing has cut this")


class TestALease:
    def test_over_trips_the_token_that_notices_and_refuses(self) -> None:
        lease = Lease(time.monotonic() + 60)
        token = CancelToken(lease=lease)
        child = CancelToken(token)
        token.admit("tool")
        child.admit("tool")
        lease.until = time.monotonic()
        assert not token.stopped
        with pytest.raises(AgentStopped, match="the lease is over"):
            child.admit("tool")
        assert (child.stopped, child.cause) == (True, StopCause.SHUTDOWN)
        assert not token.stopped  # its own admission, or the host, comes to it
        with pytest.raises(AgentStopped):
            token.admit("tool")

    def test_over_outranks_cleanup(self, token: CancelToken) -> None:
        lease = token.lease = Lease()
        token.request(reason="enough")
        with cleanup(60):
            token.admit("tool")
            lease.end()
            with pytest.raises(AgentStopped):
                token.admit("tool")
        assert (token.reason, token.cause) == ("enough", StopCause.REQUEST)

    def test_is_extended_while_it_lasts_and_never_after(self) -> None:
        lease = Lease(time.monotonic() + 60)
        assert lease.extend(time.monotonic() + 120)
        lease.until = time.monotonic()
        assert lease.is_over
        assert not lease.extend(time.monotonic() + 120)
        assert lease.is_over

    def test_stays_over_once_a_call_was_refused(self) -> None:
        lease = Lease(time.monotonic())
        with pytest.raises(AgentStopped):
            CancelToken(lease=lease).admit("tool")
        assert not lease.extend(time.monotonic() + 60)

    def test_without_one_there_is_no_end(self) -> None:
        assert CancelToken().admit("tool") <= time.monotonic()
        assert not CancelToken().lease.is_over
