"""Characters that come in two halves: in texts, thoughts, tool calls, and on the way back."""

from __future__ import annotations

from typing import Any

import pytest

from agents.tools.llm.client import Model, call_llm
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import ask, stream_of
from tests.support.llm_server import Answer, LLMServer

HIGH, LOW = "\ud83d", "\ude00"  # json.dumps writes each as an escape: so they come in two chunks


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([f"Hi {HIGH}", f"{LOW}!"], "Hi 😀!"),
        ([HIGH, LOW], "😀"),
        ([HIGH, "", LOW], "😀"),
        ([HIGH, LOW, HIGH, LOW], "😀😀"),
        ([HIGH, f"{LOW}{HIGH}", LOW], "😀😀"),
        ([f"Hi {HIGH}"], "Hi \ufffd"),
        ([HIGH, HIGH, LOW], "\ufffd😀"),
        ([HIGH, "x", LOW], "\ufffdx\ufffd"),
        ([LOW, HIGH], "\ufffd\ufffd"),
        (["a\0", "b"], "a\ufffdb"),
    ],
)
@pytest.mark.parametrize("field", ["content", "refusal", "parts"])
async def test_halves_are_joined_and_a_lone_one_is_replaced(
    server: LLMServer, model: Model, run: AgentRun, pieces: list[str], text: str, field: str
) -> None:
    def delta(piece: str) -> dict[str, Any]:
        if field == "parts":
            return {"content": [{"type": "text", "text": piece}]}
        return {field: piece}

    server.answer = Answer(chunks=stream_of(*map(delta, pieces)))
    reply = await within(5, ask(run, model))
    assert reply.text == text
    assert run.shown == text
    assert run.only("llm_call")["text"] == text
    await run.task(call_llm(run.guard, model, [{"role": "assistant", "content": reply.text}]))
    assert server.requests[1].body["messages"][0]["content"] == text


async def test_halves_that_other_pieces_come_between_are_joined(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": f"id-{HIGH}", "function": function}]}

    def rest(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": function}]}

    server.answer = Answer(
        chunks=stream_of(
            {"content": f"a{HIGH}", "reasoning_content": f"b{HIGH}"},
            call(name=f"c{HIGH}"),
            rest(name=LOW),
            rest(arguments='{"d": "' + HIGH),
            {"content": LOW, "reasoning_content": LOW},
            rest(arguments=f'{LOW}{HIGH}"}}'),
        )
    )
    reply = await within(5, ask(run, model))
    assert (reply.text, reply.reasoning) == ("a😀", "b😀")
    (made,) = reply.tool_calls
    assert made["id"] == "id-\ufffd"
    assert made["function"] == {"name": "c😀", "arguments": '{"d": "😀\ufffd"}'}
    assert run.only("llm_call")["tool_calls"] == reply.tool_calls
    assert "b😀" not in str(run.sink.events)
    back = {"role": "assistant", "content": reply.text, "tool_calls": reply.tool_calls}
    await run.task(call_llm(run.guard, model, [back]))
    assert server.requests[1].body["messages"] == [back]


async def test_halves_in_other_fields_do_no_harm(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    chunks = stream_of({"content": "Hi"}, reason=f"stop{HIGH}", model=f"m{HIGH}{LOW}")
    chunks.append({"choices": [], "usage": {HIGH: 1, "prompt_tokens": HIGH}})
    server.answer = Answer(chunks=chunks)
    reply = await within(5, ask(run, model))
    assert (reply.model, reply.finish_reason) == ("m😀", "stop\ufffd")
    event = run.only("llm_call")
    assert (event["model"], event["finish_reason"]) == (reply.model, reply.finish_reason)


async def test_halves_in_an_object_of_arguments_are_joined(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    function = {"name": "f", "arguments": {"a": f"{HIGH}{LOW}", HIGH: LOW}}
    server.answer = Answer(chunks=stream_of({"tool_calls": [{"function": function}]}))
    (call,) = (await within(5, ask(run, model))).tool_calls
    assert call["function"]["arguments"] == '{"a": "😀", "\ufffd": "\ufffd"}'
