"""What an endpoint answers may be odd: the run ends as it should, and its record has all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents import Tools, agent
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.forward_proxy import ForwardProxy
from tests.support.journal import Journal
from tests.support.llm_server import TEXT, Answer, LLMServer
from tests.support.running import Start

QUESTION = {"role": "user", "content": "What became of the ship?"}
HIGH, LOW = "\ud83d", "\ude00"


@pytest.mark.parametrize("count", [-35, 2**63, 2**70, 12.5, "12", True, None, float("nan")])
def test_an_odd_count_of_tokens_costs_a_run_nothing(
    llm_server: LLMServer, worker: Any, start: Start, log: Journal, count: Any
) -> None:
    @agent("asker")
    async def asker(tools: Tools) -> str:
        replies = [await tools.call_llm([QUESTION]) for _ in range(2)]
        return replies[-1].text

    llm_server.answer = Answer(usage={"prompt_tokens": count, "completion_tokens": 13})
    record = log.over(start("asker"))
    assert (record.status, record.result) == (Status.SUCCESS, TEXT)
    assert (record.llm_calls, record.input_tokens, record.output_tokens) == (2, 12, 26)
    assert record.usage_estimated
    assert_consistent(record)


@pytest.fixture
def proxy(llm_server: LLMServer, options: Callable[..., None]) -> Iterator[ForwardProxy]:
    """The only way to the model's endpoint."""
    with ForwardProxy({"model.internal": llm_server.port}, "agent", "pass:wörd") as proxy:
        url = proxy.url("agent:pass%3Aw%C3%B6rd")
        options(LLM={"BASE_URL": "http://model.internal/v1", "MODEL": "small", "PROXY_URL": url})
        yield proxy


def test_a_run_reaches_its_model_through_the_proxy_of_the_settings(
    llm_server: LLMServer, proxy: ForwardProxy, worker: Any, start: Start, log: Journal
) -> None:
    @agent("asker")
    async def asker(tools: Tools) -> str:
        return (await tools.call_llm([QUESTION])).text

    record = log.over(start("asker"))
    assert (record.status, record.result) == (Status.SUCCESS, TEXT)
    assert proxy.requests == [("POST", "http://model.internal/v1/chat/completions")]
    assert llm_server.request_count == 1


def test_halves_of_characters_and_calls_without_ids_come_back_whole(
    llm_server: LLMServer, worker: Any, start: Start, log: Journal
) -> None:
    def chunk(**delta: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta}]}

    def call(city: str) -> dict[str, Any]:
        function = {"name": f"look{HIGH}{LOW}", "arguments": '{"at": "' + city + '"}'}
        return chunk(tool_calls=[{"index": 0, "function": function}])

    @agent("asker")
    async def asker(tools: Tools) -> list[Any]:
        reply = await tools.call_llm([QUESTION])
        back = {"role": "assistant", "content": reply.text, "tool_calls": reply.tool_calls}
        await tools.call_llm([QUESTION, back])
        return [reply.text, reply.tool_calls]

    chunks = [chunk(content=f"Hi {HIGH}"), chunk(content=f"{LOW} {HIGH}"), call("A"), call("B")]
    llm_server.answers.append(Answer(chunks=chunks))
    run = start("asker")
    record = log.over(run)
    assert record.status == Status.SUCCESS
    text, calls = record.result
    assert text == "Hi 😀 \ufffd"
    functions = [call["function"] for call in calls]
    assert functions == [{"name": "look😀", "arguments": f'{{"at": "{city}"}}'} for city in "AB"]
    assert len({call["id"] for call in calls}) == 2
    first = log.of(run, "llm_call")[0].data
    assert (first["text"], first["tool_calls"]) == (text, calls)
    sent = llm_server.requests[1].body["messages"][1]
    assert (sent["content"], sent["tool_calls"]) == (text, calls)
    assert_consistent(record)
