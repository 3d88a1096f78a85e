"""Requests of SDKs that were cut: what was sent and said is counted, as an estimate."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from agents import AgentStopped
from agents.trace import Usage
from tests.support.agent_run import AgentRun, within
from tests.support.http_clients import LIBRARIES, async_client
from tests.support.llm_server import TEXT, Answer
from tests.support.traffic_server import TrafficServer

from .conftest import Ask

CHAT: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "Where is the ship?"}]}
PATH = "/v1/chat/completions"
INPUT = 5


async def test_an_abort_before_the_answer(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    server.hold()
    asking = asyncio.ensure_future(ask(PATH, CHAT))
    await server.until_requests(1)
    [flying] = run.trace.in_flight()
    assert (flying["tool"], flying["label"]) == ("call_llm", "gpt-5")
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(5, asking)
    event = run.only("llm_call")
    assert (event["outcome"], event["text"], event["model"]) == ("aborted", "", "gpt-5")
    assert run.trace.usage == Usage(1, INPUT, 0, estimated=True)


async def test_an_abort_in_the_stream(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    server.hold("middle")
    asking = asyncio.ensure_future(ask(PATH, {**CHAT, "stream": True}))
    while not run.shown:
        await asyncio.sleep(0.01)
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(5, asking)
    event = run.only("llm_call")
    assert (event["outcome"], event["text"]) == ("aborted", "The ")
    assert run.trace.usage == Usage(1, INPUT, 1, estimated=True)


async def test_a_graceful_stop_lets_it_finish(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    server.hold("middle")
    asking = asyncio.ensure_future(ask(PATH, {**CHAT, "stream": True}))
    while not run.shown:
        await asyncio.sleep(0.01)
    run.stop()
    server.release()
    await within(5, asking)
    assert run.only("llm_call")["text"] == TEXT
    with pytest.raises(AgentStopped):
        await ask(PATH, CHAT)
    assert (server.request_count, run.trace.usage.llm_calls) == (1, 1)


async def test_a_connection_that_is_lost(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    server.answer = Answer(drop_after=3)
    with pytest.raises(Exception, match=r"incomplete|closed|disconnected"):
        await ask(PATH, {**CHAT, "stream": True})
    event = run.only("llm_call")
    assert (event["outcome"], event["text"]) == ("error", "The ship ")
    assert run.trace.usage == Usage(1, INPUT, 3, estimated=True)


async def test_embeddings_that_are_cut(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    server.answer = Answer(chunks=['{"usage": {"prompt_tokens": 8}, "data": ['], drop_after=1)
    with pytest.raises(Exception, match=r"incomplete|closed|disconnected"):
        await ask("/v1/embeddings", {"model": "embed", "input": "Ahoi"})
    assert run.trace.usage == Usage(1, 8, 0, estimated=True)


async def test_a_connection_that_is_refused_counts_nothing(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        server.port = unused.getsockname()[1]
    with pytest.raises(Exception, match=r"[Cc]onnect"):
        await ask(PATH, CHAT)
    assert run.only("llm_call")["outcome"] == "error"
    assert run.trace.usage == Usage()


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
async def test_a_client_that_stops_reading(
    server: TrafficServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        async with async_client(library) as client:
            body = {**CHAT, "stream": True}
            async with client.stream("POST", server.url + PATH, json=body) as response:
                async for _ in response.aiter_bytes():
                    if run.shown:
                        return

    server.hold("middle")
    await within(5, run.task(agent()))
    event = run.only("llm_call")
    assert (event["outcome"], event["text"]) == ("ok", "The ")
    assert run.trace.usage == Usage(1, INPUT, 1, estimated=True)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
async def test_a_caller_that_is_cancelled_in_a_graceful_stop_pays_for_all(
    server: TrafficServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        async with async_client(library) as client:
            await client.post(server.url + PATH, json=CHAT)

    server.hold()
    task = run.task(agent())
    await server.until_requests(1)
    run.stop()
    task.cancel()
    server.release()
    with pytest.raises(asyncio.CancelledError):
        await within(5, task)
    assert run.only("llm_call")["text"] == TEXT
    assert run.trace.usage == Usage(1, 21, 13)
