"""``call_seconds``: the data store is not cut, a model and HTTP are, and the run goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from agents import CallTimedOut, Tools
from agents.testing import ScriptedModel
from tests.support.agent_run import within
from tests.support.guarded_calls import SECONDS
from tests.support.started_run import MESSAGES, SlowStore, Started

SHORT = 0.05
LONG = 60.0


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
