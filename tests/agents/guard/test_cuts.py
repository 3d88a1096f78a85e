"""What may cut a call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agents import AgentStopped, cleanup
from agents.cancellation import StopMode
from tests.support.agent_run import AgentRun, within
from tests.support.guarded_calls import SECONDS, Backend, complaints_of_the_collector, guarded


async def test_without_a_cancellation_the_result_comes_back(
    run: AgentRun, backend: Backend
) -> None:
    backend.may_end.set()
    assert await run.task(guarded(run.guard, backend)) == "result"
    assert run.only("http")["record"] == "result"
    assert run.guard.parts == set()


async def test_without_a_cancellation_the_error_comes_out(run: AgentRun, backend: Backend) -> None:
    backend.may_end.set()
    with pytest.raises(ValueError, match="bad"):
        await run.task(guarded(run.guard, backend, ValueError("bad")))
    assert run.only("http")["outcome"] == "error"


async def test_a_stop_does_not_cut_what_a_sibling_cancels(run: AgentRun, backend: Backend) -> None:
    async def branches() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(guarded(run.guard, backend))
            await backend.started.wait()
            run.stop()
            run.guard.check()

    task = run.task(branches())
    await within(SECONDS, backend.started.wait())
    while task.cancelling() == 0 and not run.events("stop_observed"):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (backend.cut, task.done()) == (0, False)
    backend.may_end.set()
    with pytest.raises(BaseExceptionGroup) as failed:
        await within(SECONDS, task)
    assert [type(error) for error in failed.value.exceptions] == [AgentStopped]
    data = run.only("http")
    assert (data["outcome"], data["record"]) == ("ok", "result")


async def test_the_result_is_recorded_before_the_cancellation_is_passed_on(
    run: AgentRun, backend: Backend
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    run.stop()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second one changes nothing
    await asyncio.sleep(0)
    assert not task.done()
    backend.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert run.only("http")["record"] == "result"
    assert run.only("http")["outcome"] == "ok"


async def test_an_error_that_comes_after_the_cancellation_gives_way_to_it(
    run: AgentRun, backend: Backend
) -> None:
    task = run.task(guarded(run.guard, backend, ValueError("bad")))
    await within(SECONDS, backend.started.wait())
    run.stop()
    task.cancel()
    await asyncio.sleep(0)
    backend.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    complaints = await complaints_of_the_collector()
    assert complaints == []


@pytest.mark.parametrize("result", ["result", ValueError("bad")])
async def test_an_own_time_limit_cuts_when_no_stop_was_requested(
    run: AgentRun, backend: Backend, result: Any
) -> None:
    before = asyncio.all_tasks()

    async def limited() -> None:
        async with asyncio.timeout(0.01):
            await guarded(run.guard, backend, result)

    with pytest.raises(TimeoutError):
        await within(SECONDS, run.task(limited()))
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"
    assert asyncio.all_tasks() == before, "the work goes on behind the agent's back"
    assert await complaints_of_the_collector() == []


async def test_a_second_cancellation_does_not_cut_twice(run: AgentRun) -> None:
    """httpx loses connections of its pool if it is cancelled while it closes one."""
    closing, may_close = asyncio.Event(), asyncio.Event()
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()
            steps.append("closed")

    async def call() -> None:
        with run.guard.call("http") as call:
            await call.uninterrupted(work())

    task = run.task(call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await within(SECONDS, closing.wait())
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    may_close.set()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert steps == ["closed"]


async def test_work_that_survives_its_cut_is_recorded_and_the_cancellation_passed_on(
    run: AgentRun,
) -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "all the same"
        raise AssertionError

    recorded: list[str] = []

    async def call() -> None:
        with run.guard.call("http") as call:
            await call.uninterrupted(work(), recorded.append)

    task = run.task(call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert recorded == ["all the same"]
    assert run.only("http")["outcome"] == "ok"


async def test_a_process_that_goes_away_cuts_although_a_stop_is_on_its_way(
    run: AgentRun, backend: Backend
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    run.stop()
    task.cancel()  # by a sibling: not cut
    await asyncio.sleep(0)
    assert backend.cut == 0
    run.guard.host_cancelled = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, task)
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"


@pytest.mark.parametrize("mode", [StopMode.ABORT, StopMode.ABANDON])
async def test_a_stop_that_is_harder_than_graceful_lets_a_cancellation_cut(
    run: AgentRun, backend: Backend, mode: StopMode
) -> None:
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    run.stop(mode)
    task.cancel()
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert backend.cut == 1


async def test_the_end_of_cleanup_cuts_what_is_being_saved(run: AgentRun, backend: Backend) -> None:
    run.stop()

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                await guarded(run.guard, backend)
            finally:
                with pytest.raises(AgentStopped):
                    run.guard.check()

    with pytest.raises(AgentStopped, match="cut after"):
        await within(SECONDS, run.task(save()))
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"


async def test_the_end_of_an_outer_cleanup_cuts_what_is_being_saved_in_a_branch(
    run: AgentRun, backend: Backend
) -> None:
    run.stop()

    async def save() -> None:
        async with cleanup(seconds=0.02), asyncio.TaskGroup() as group:
            group.create_task(guarded(run.guard, backend))

    with pytest.raises(AgentStopped):
        await within(SECONDS, run.task(save()))
    assert backend.cut == 1


@pytest.mark.parametrize("mode", [StopMode.GRACEFUL, StopMode.ABORT])
async def test_a_sibling_that_is_done_earlier_does_not_cut_what_is_being_saved(
    run: AgentRun, backend: Backend, mode: StopMode
) -> None:
    """Branches that meet a stop save what they have, each at its own pace."""

    async def branch() -> None:
        try:
            run.guard.check()
        finally:
            async with cleanup():
                await guarded(run.guard, backend)

    async def branches() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
            await backend.started.wait()
            run.guard.check()

    run.stop(mode)
    task = run.task(branches())
    await within(SECONDS, backend.started.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (backend.cut, task.done()) == (0, False)
    backend.may_end.set()
    with pytest.raises(BaseExceptionGroup):
        await within(SECONDS, task)
    assert run.only("http")["outcome"] == "ok"
    assert backend.done == 1


async def test_a_cancellation_that_came_before_the_call_cuts_it(
    run: AgentRun, backend: Backend
) -> None:
    async def call() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await guarded(run.guard, backend)

    with pytest.raises(asyncio.CancelledError):
        await within(SECONDS, run.task(call()))
    assert backend.cut == 1
    assert run.only("http")["outcome"] == "aborted"
    assert await complaints_of_the_collector() == []
