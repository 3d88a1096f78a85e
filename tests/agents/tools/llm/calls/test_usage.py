"""Usage."""

from __future__ import annotations

import asyncio
import math

import pytest

from agents.tools.http.pools import STREAMS_PER_POOL, Transports
from agents.tools.llm import endpoint
from agents.tools.llm.client import Model, TokenUsage
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import ASK, KEY, ask, busy_counts
from tests.support.llm_server import TEXT, Answer, LLMServer


async def test_usage_that_is_not_reported_is_estimated(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(usage=None)
    reply = await ask(run, model)
    prompt = math.ceil(len(ASK[0]["content"]) / 4)
    assert reply.usage == TokenUsage(prompt, math.ceil(len(TEXT) / 4), estimated=True)
    assert run.only("llm_call")["estimated"] is True
    assert run.trace.usage.estimated


@pytest.mark.parametrize("status", [400, 422])
async def test_an_endpoint_that_minds_stream_options_is_asked_without(
    server: LLMServer, model: Model, run: AgentRun, status: int
) -> None:
    refusal = {"error": {"message": "Unrecognized request argument: stream_options"}}
    server.answers.append(Answer(status=status, body=refusal))
    reply = await ask(run, model)
    assert reply.text == TEXT
    assert reply.usage.estimated
    await ask(run, model)
    asked = ["stream_options" in request.body for request in server.requests]
    assert asked == [True, False, False]
    assert len(run.events("llm_call")) == 2


@pytest.mark.parametrize("rest", [0.0, 0.05])
async def test_a_connection_is_used_again_after_a_streamed_reply(
    server: LLMServer, model: Model, run: AgentRun, rest: float
) -> None:
    server.answer = Answer(rest=rest)
    for _ in range(5):
        await ask(run, model)
    assert server.opened_count == 1


async def test_a_body_that_goes_on_after_the_reply_is_cut(
    server: LLMServer, model: Model, run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "REST_SECONDS", 0.05)
    server.answer = Answer(rest=30)
    assert (await within(5, ask(run, model))).text == TEXT
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    assert busy_counts(model) == [0]


async def test_many_calls_at_once_share_pools_of_limited_size(server: LLMServer) -> None:
    transports = Transports()
    model = Model(server.base_url, KEY, "m", transports=transports)
    count = 2 * STREAMS_PER_POOL + 10
    runs = [AgentRun() for _ in range(count)]
    server.hold("middle")
    calls = [ask(run, model) for run in runs]
    await server.until_requests(count)
    busy = [pool.busy_count for pool in transports._http2_async._pools]
    assert busy == [STREAMS_PER_POOL, STREAMS_PER_POOL, 10]
    server.release()
    replies = await within(20, asyncio.gather(*calls))
    assert {reply.text for reply in replies} == {TEXT}
    assert len(transports._http2_async._pools) == 1
    await model.aclose()
    await transports.aclose()
