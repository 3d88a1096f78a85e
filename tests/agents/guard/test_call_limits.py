"""``call_seconds``: a guarded call that takes longer is cut, and the agent may go on."""

from __future__ import annotations

import asyncio
import time

import pytest

from agents import AgentStopped, CallTimedOut, cleanup
from tests.support.agent_run import AgentRun, within
from tests.support.guarded_calls import SECONDS, Backend, guarded

SHORT = 0.05
LONG = 60.0


async def test_a_call_that_takes_too_long_is_cut(run: AgentRun, backend: Backend) -> None:
    run.guard.call_seconds = SHORT
    began = time.monotonic()
    with pytest.raises(CallTimedOut, match=r"more than 0\.05 s"):
        await within(SECONDS, run.task(guarded(run.guard, backend)))
    assert time.monotonic() - began >= SHORT
    assert backend.cut == 1
    data = run.only("http")
    assert (data["outcome"], data["error"]["type"]) == ("error", "CallTimedOut")
    assert not run.token.stopped
    assert run.guard.parts == set()
    assert run.trace.in_flight() == []


async def test_the_agent_may_go_on(run: AgentRun, backend: Backend) -> None:
    run.guard.call_seconds = SHORT
    with pytest.raises(CallTimedOut):
        await within(SECONDS, run.task(guarded(run.guard, backend)))
    backend.may_end.set()
    assert await within(SECONDS, run.task(guarded(run.guard, backend))) == "result"


async def test_a_call_in_time_is_left_alone(run: AgentRun, backend: Backend) -> None:
    run.guard.call_seconds = LONG
    backend.may_end.set()
    assert await run.task(guarded(run.guard, backend)) == "result"
    assert not [handle for handle in asyncio.all_tasks() if "guarded" in str(handle)]


async def test_a_shorter_time_limit_of_the_agents_wins(run: AgentRun, backend: Backend) -> None:
    run.guard.call_seconds = LONG

    async def hurried() -> None:
        async with asyncio.timeout(SHORT):
            await guarded(run.guard, backend)

    with pytest.raises(TimeoutError):
        await within(SECONDS, run.task(hurried()))


async def test_an_abort_that_was_faster_is_a_stop(run: AgentRun, backend: Backend) -> None:
    run.guard.call_seconds = LONG
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert run.only("http")["outcome"] == "aborted"


async def test_an_abort_that_is_slower_changes_nothing(run: AgentRun) -> None:
    run.guard.call_seconds = SHORT
    cuts: list[str] = []
    may_end = asyncio.Event()

    async def unwinding() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            cuts.append("cut")
            await may_end.wait()

    async def call() -> None:
        with run.guard.call("http", "GET x") as guarded:
            await guarded.uninterrupted(unwinding())

    task = run.task(call())
    while not cuts:
        await asyncio.sleep(0.005)
    run.stop("abort")
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(CallTimedOut):
        await within(SECONDS, task)
    assert cuts == ["cut"], "no second cancellation"


async def test_a_stop_lets_the_call_finish_within_its_limit(
    run: AgentRun, backend: Backend
) -> None:
    run.guard.call_seconds = SHORT
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    run.stop()
    with pytest.raises(CallTimedOut):
        await within(SECONDS, task)


async def test_it_holds_in_a_cleanup(run: AgentRun, backend: Backend) -> None:
    run.guard.call_seconds = SHORT

    async def tidy_up() -> None:
        async with cleanup(LONG):
            await guarded(run.guard, backend)

    run.stop()
    with pytest.raises(CallTimedOut):
        await within(SECONDS, run.task(tidy_up()))


async def test_calls_and_their_ends_are_signs_of_life(run: AgentRun, backend: Backend) -> None:
    before = run.trace.alive_at
    task = run.task(guarded(run.guard, backend))
    await within(SECONDS, backend.started.wait())
    began = run.trace.alive_at
    assert began > before
    backend.may_end.set()
    await task
    ended = run.trace.alive_at
    assert ended > began
    run.trace.emit("log", {"message": "a line of the host's"})
    run.trace.emit("stdout", {"text": "printed"}, source="agent")
    assert run.trace.alive_at == ended
    run.trace.emit("progress", {"done": 1}, source="agent")
    said = run.trace.alive_at
    assert said > ended
    run.trace.text("no call", "a word")
    assert run.trace.alive_at > said
