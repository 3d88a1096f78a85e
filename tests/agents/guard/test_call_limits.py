"""``call_seconds``: a guarded call that takes longer is cut, and the agent may go on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from agents import AgentStopped, CallTimedOut, Tools, cleanup
from agents.testing import ScriptedModel
from tests.support.agent_run import AgentRun, within
from tests.support.guarded_calls import SECONDS, Backend, guarded
from tests.support.started_run import MESSAGES, SlowStore, Started

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


async def test_the_data_store_is_not_cut() -> None:
    async def agent(tools: Tools) -> str:
        await tools.data_store.set("x", 1)
        return "written"

    store = SlowStore()
    run = Started(agent, store=store)
    run.guard.call_seconds = SHORT
    await within(SECONDS, store.writing.wait())
    await asyncio.sleep(3 * SHORT)
    store.may_write.set()
    assert (await run.outcome()).result == "written"
    assert store.entries == {"default": {"x": 1}}


async def test_a_model_that_takes_too_long_is_paid_for() -> None:
    async def never(messages: Any) -> str:
        await asyncio.sleep(LONG)
        return "?"

    async def agent(tools: Tools) -> str:
        try:
            await tools.call_llm(MESSAGES)
        except CallTimedOut as error:
            return error.code
        return "?"

    run = Started(agent, model=ScriptedModel(never))
    run.guard.call_seconds = SHORT
    assert (await run.outcome()).result == "call_timed_out"
    assert (run.trace.usage.llm_calls, run.trace.usage.estimated) == (1, True)
    assert run.trace.usage.input_tokens > 0


@pytest.mark.parametrize("at", ["headers", "body"])
async def test_an_http_request_is_cut_as_a_whole(at: str) -> None:
    closed = asyncio.Event()

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for _ in range(1000):
                yield b"piece"
                await asyncio.sleep(SHORT / 3)

        async def aclose(self) -> None:
            closed.set()

    async def answer(request: httpx.Request) -> httpx.Response:
        if at == "headers":
            await asyncio.sleep(LONG)
        return httpx.Response(200, stream=Body())

    async def agent(tools: Tools) -> str:
        try:
            await tools.http.get("http://example.org")
        except httpx.TimeoutException as error:  # what code that uses httpx expects
            return type(error).__name__
        return "?"

    run = Started(agent, http=answer)
    run.guard.call_seconds = 2 * SHORT
    assert (await run.outcome()).result == "CallTimedOut"
    assert run.only("http")["error"]["type"] == "CallTimedOut"
    assert closed.is_set() == (at == "body")


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
