"""Dialects."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx2
import pytest

from agents.exceptions import AgentStopped, LLMError
from agents.tools.llm.client import LLMReply, Model, TokenUsage
from agents.tools.llm.reply import PartialReply
from agents.tools.llm.stand_in import StandIn
from agents.values import redaction
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import KEY, ask, stream_of
from tests.support.llm_server import Answer, LLMServer


async def test_tool_calls_are_put_together_from_their_pieces(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "function": function}

    server.answer = Answer(
        chunks=stream_of(
            {"role": "assistant", "content": None},
            {"tool_calls": [{"id": "a", "type": "function", **part(0, name="look")}]},
            {"tool_calls": [part(0, arguments='{"where"')]},
            {"tool_calls": [{"id": "b", **part(1, name="listen", arguments="{}")}]},
            {"tool_calls": [part(0, arguments=': "sea"}')]},
            reason="tool_calls",
        )
    )
    reply = await ask(run, model)
    assert reply.tool_calls == [
        {
            "id": "a",
            "type": "function",
            "function": {"name": "look", "arguments": '{"where": "sea"}'},
        },
        {"id": "b", "type": "function", "function": {"name": "listen", "arguments": "{}"}},
    ]
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert run.only("llm_call")["tool_calls"] == reply.tool_calls
    assert reply.usage.output_tokens > 0


@pytest.mark.parametrize("index", [{}, {"index": 0}, {"index": None}])
def test_whole_tool_calls_without_a_proper_index_stay_apart(index: dict[str, Any]) -> None:
    reply = PartialReply("m", 0)
    for name in ("a", "b"):
        call = {"id": name, "function": {"name": name, "arguments": {"x": 1}}, **index}
        reply.add({"choices": [{"delta": {"tool_calls": [call]}}]})
    reply.is_done = True
    calls = reply.finish().tool_calls
    assert [call["function"] for call in calls] == [
        {"name": "a", "arguments": '{"x": 1}'},
        {"name": "b", "arguments": '{"x": 1}'},
    ]


async def test_a_refusal_is_the_text_and_the_reason(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(chunks=stream_of({"refusal": "I'd rather "}, {"refusal": "not."}))
    reply = await ask(run, model)
    assert (reply.text, reply.finish_reason) == ("I'd rather not.", "refusal")
    assert run.shown == "I'd rather not."


def test_odd_fields_are_as_good_as_none() -> None:
    reply = PartialReply("asked", 40)
    shown = [
        reply.add(chunk)
        for chunk in (
            {},
            {"choices": None, "usage": None},
            {"choices": [None, 3, {"delta": None}, {"delta": "x"}]},
            {"choices": [{"delta": {"content": None, "tool_calls": None, "refusal": None}}]},
            {"choices": [{"index": 1, "delta": {"content": "another choice"}}]},
            {"choices": [{"delta": {"reasoning_content": "hm" * 8}}]},
            {"choices": [{"delta": {"content": [{"type": "text", "text": "in parts"}]}}]},
            {"choices": [{"delta": {"content": "!"}, "finish_reason": "stop"}], "model": "m2"},
            {"choices": [], "usage": {"prompt_tokens": "many"}},
        )
    ]
    assert "".join(shown) == "in parts!"
    assert reply.finish() == LLMReply("in parts!", [], TokenUsage(10, 7, True), "m2", "stop")


@pytest.mark.parametrize("done", [True, False])
async def test_a_stream_that_says_neither_why_it_ends_nor_that_it_does_broke_off(
    server: LLMServer, model: Model, run: AgentRun, done: bool
) -> None:
    server.answer = Answer(chunks=stream_of({"content": "Yes, and"}, reason=None), done=done)
    if done:
        assert (await ask(run, model)).text == "Yes, and"
        return
    with pytest.raises(LLMError, match="broke off"):
        await ask(run, model)
    assert run.only("llm_call")["text"] == "Yes, and"


async def test_usage_without_choices_and_comments_between_events_are_no_trouble(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(
        chunks=[
            ": keep-alive\n\n",
            *stream_of({"content": "Ye"}, {"content": "s — ü"}),
            "\n",
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        ],
        done=False,
    )
    reply = await ask(run, model)
    assert (reply.text, reply.usage) == ("Yes — ü", TokenUsage(5, 2))


async def test_without_address_and_key_the_stand_in_answers_and_says_who_it_is() -> None:
    model, run = Model(transport=StandIn(speed=math.inf)), AgentRun()
    assert model.is_stand_in
    reply = await ask(run, model, model_name="gpt-of-the-day")
    assert reply.model == "stand-in"
    assert reply.text.startswith("Where did the ship go?")
    event = run.only("llm_call")
    assert event["label"] == event["model"] == "stand-in"
    assert event["estimated"] is False
    assert run.shown == reply.text
    await model.aclose()


async def test_a_graceful_stop_lets_the_stand_in_finish() -> None:
    model, run = Model(transport=StandIn(speed=20)), AgentRun()
    call = ask(run, model)
    async with asyncio.timeout(5):
        while not run.sink.texts:
            await asyncio.sleep(0.001)
    run.stop()
    assert (await within(5, call)).text == run.shown
    with pytest.raises(AgentStopped):
        await ask(run, model)
    await model.aclose()


def test_a_model_with_a_key_alone_is_openais() -> None:
    model = Model("", KEY, "m")
    assert not model.is_stand_in
    assert model._endpoint._client.base_url == "https://api.openai.com/v1/"
    redaction.forget_secrets()


async def test_a_fake_transport_may_carry_the_requests(run: AgentRun) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)
        choice = {"message": {"content": asked["model"].upper()}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice]})

    model = Model("http://x.invalid/v1", "", "m", transport=httpx2.MockTransport(answer))
    assert (await ask(run, model)).text == "M"
    await model.aclose()
