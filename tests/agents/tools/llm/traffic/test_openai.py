"""OpenAI's protocols, as SDKs speak them: each request is counted as ``call_llm``'s are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agents.tools.llm.client import Model, call_llm
from agents.trace import Usage
from tests.support.agent_run import AgentRun
from tests.support.http_clients import async_client
from tests.support.llm_server import TEXT, Answer
from tests.support.traffic_server import TrafficServer, events

from .conftest import Ask

MESSAGES = [{"role": "user", "content": "Where did the ship go?"}]
CHAT = {"model": "gpt-5", "messages": MESSAGES}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai/v9/chat/completions?v=1"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_completion(
    ask: Ask, server: TrafficServer, run: AgentRun, path: str, stream: bool
) -> None:
    server.answer = Answer(tool_calls=[CALL], finish_reason="tool_calls", model="gpt-5-mini")
    options = {"include_usage": True}
    asked = {**CHAT, "stream": stream, **({"stream_options": options} if stream else {})}
    raw = await ask(path, asked)
    assert server.requests[-1].body == asked
    assert b"chatcmpl-1" in raw
    event = run.only("llm_call")
    assert event.pop("started_at")
    assert event.pop("duration_ms")
    assert event == {
        "call": event["call"],
        "tool": "call_llm",
        "label": "gpt-5",
        "outcome": "ok",
        "model": "gpt-5-mini",
        "host": "127.0.0.1",
        "status": 200,
        "text": TEXT,
        "tool_calls": [CALL],
        "finish_reason": "tool_calls",
        "input_tokens": 21,
        "output_tokens": 13,
        "estimated": False,
    }
    assert run.trace.usage == Usage(1, 21, 13)
    assert run.shown == TEXT
    assert run.events("http") == []


@pytest.mark.parametrize("stream", [False, True])
async def test_it_counts_as_call_llm_counts(
    ask: Ask, server: TrafficServer, run: AgentRun, stream: bool
) -> None:
    server.answer = Answer(usage=None)
    await ask("/v1/chat/completions", {**CHAT, "stream": stream})
    model, other = Model(server.base_url, "a-key-of-the-tests"), AgentRun()
    await other.task(call_llm(other.guard, model, MESSAGES, model_name="gpt-5"))
    await model.aclose()
    [ours], [theirs] = run.events("llm_call"), other.events("llm_call")
    told = ("tool", "label", "outcome", "text", "input_tokens", "output_tokens", "estimated")
    assert {name: ours[name] for name in told} == {name: theirs[name] for name in told}
    assert run.trace.usage == other.trace.usage == Usage(1, 6, 14, estimated=True)


async def test_call_llm_is_counted_once(server: TrafficServer, run: AgentRun) -> None:
    model = Model(server.base_url, "a-key-of-the-tests")
    await run.task(call_llm(run.guard, model, MESSAGES, model_name="gpt-5"))
    await model.aclose()
    assert "host" not in run.only("llm_call")
    assert run.trace.usage == Usage(1, 21, 13)


async def test_bytes_pass_as_they_are(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    chunks = [b": hello\r\n\r\nda", b'ta: {"choices": [{"delta": {"content": "Ah', b'oi"}}]}\n\n']
    server.answer = Answer(chunks=chunks, done=False)
    assert await ask("/v1/chat/completions", {**CHAT, "stream": True}) == b"".join(chunks)
    assert run.only("llm_call")["text"] == "Ahoi"


async def test_the_model_of_azure_is_in_the_path(ask: Ask, run: AgentRun) -> None:
    path = "/openai/deployments/my-gpt/chat/completions?api-version=1"
    await ask(path, {"messages": MESSAGES})
    assert run.only("llm_call")["label"] == "my-gpt"


async def test_a_completion_has_a_prompt(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    choice = {"index": 0, "text": "Aye.", "finish_reason": "stop"}
    server.answer = Answer(body={"model": "old", "choices": [choice]})
    await ask("/v1/completions", {"model": "old", "prompt": "Aye or nay?"})
    assert run.only("llm_call")["text"] == "Aye."
    assert run.trace.usage == Usage(1, 3, 1, estimated=True)


RESPONSE: Any = {
    "object": "response",
    "status": "completed",
    "model": "gpt-5-mini",
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Ahoi, ship."}]},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": '{"at": 1}'},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12},
}
_BEGIN = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}
_CALL = {**RESPONSE["output"][2], "arguments": ""}
RESPONSE_EVENTS: list[Any] = [
    {"type": "response.created", "response": _BEGIN},
    {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
    {"type": "response.output_text.delta", "output_index": 1, "delta": "Ahoi, "},
    {"type": "response.output_text.delta", "output_index": 1, "delta": "ship."},
    {"type": "response.output_text.done", "output_index": 1, "text": "Ahoi, ship."},
    {"type": "response.output_item.added", "output_index": 2, "item": _CALL},
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"at"'},
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": ": 1}"},
    {"type": "response.output_item.done", "output_index": 2, "item": RESPONSE["output"][2]},
    {"type": "response.completed", "response": RESPONSE},
]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response(ask: Ask, server: TrafficServer, run: AgentRun, stream: bool) -> None:
    server.answer = events(*RESPONSE_EVENTS) if stream else Answer(body=RESPONSE)
    await ask("/v1/responses", {"model": "gpt-5", "input": "Ahoi?", "stream": stream})
    event = run.only("llm_call")
    assert (event["label"], event["model"], event["text"]) == ("gpt-5", "gpt-5-mini", "Ahoi, ship.")
    assert event["tool_calls"] == [CALL]
    assert event["finish_reason"] == "tool_calls"
    assert run.trace.usage == Usage(1, 7, 5)
    assert run.shown == "Ahoi, ship."
    assert "Hm." not in str(run.sink.events)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_failed_counts_nothing(
    ask: Ask, server: TrafficServer, run: AgentRun, stream: bool
) -> None:
    failed = {**_BEGIN, "status": "failed", "error": {"code": "x", "message": "Out of order."}}
    ended = events({"type": "response.failed", "response": failed})
    server.answer = ended if stream else Answer(body=failed)
    await ask("/v1/responses", {"model": "gpt-5", "input": [], "stream": stream})
    event = run.only("llm_call")
    assert (event["outcome"], run.trace.usage) == ("error", Usage())
    assert "Out of order." in event["error"]["message"]


async def test_a_response_in_the_background_is_estimated(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    server.answer = Answer(body={**_BEGIN, "status": "queued"})
    await ask("/v1/responses", {"model": "gpt-5", "input": "Ahoi?", "background": True})
    assert run.only("llm_call")["outcome"] == "ok"
    assert run.trace.usage == Usage(1, 2, 0, estimated=True)


@pytest.mark.parametrize("is_first", [True, False])
async def test_embeddings_of_any_size(
    ask: Ask, server: TrafficServer, run: AgentRun, is_first: bool
) -> None:
    data = {"data": [{"embedding": [0.123] * 200_000, "index": 0}]}
    told = {"usage": {"prompt_tokens": 8, "total_tokens": 8}, "model": "embed-3"}
    server.answer = Answer(body={**told, **data} if is_first else {**data, **told})
    await ask("/v1/embeddings", {"model": "embed", "input": ["Ahoi", "ship"]})
    event = run.only("llm_call")
    assert (event["model"], event["text"], event["tool_calls"]) == ("embed-3", "", [])
    assert run.trace.usage == Usage(1, 8, 0)


async def test_embeddings_without_usage_are_estimated(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    server.answer = Answer(body={"data": []})
    await ask("/v1/embeddings", {"model": "embed", "input": ["Ahoi", "ship"]})
    assert run.trace.usage == Usage(1, 2, 0, estimated=True)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_refused_request_counts_nothing(
    ask: Ask, server: TrafficServer, run: AgentRun, status: int
) -> None:
    server.answer = Answer(status=status, body={"error": {"message": "Too fast."}})
    await ask("/v1/chat/completions", CHAT)
    event = run.only("llm_call")
    assert (event["outcome"], event["status"], event["model"]) == ("error", status, "gpt-5")
    assert event["error"] == {
        "type": "LLMError",
        "message": f"the model's endpoint answered {status}: Too fast.",
    }
    assert run.trace.usage == Usage()


async def test_a_reply_with_an_error_in_it_counts_what_came(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "Ahoi"}}]}
    server.answer = events(said, {"error": {"message": "Overloaded."}}, is_named=False)
    await ask("/v1/chat/completions", {**CHAT, "stream": True})
    assert run.only("llm_call")["outcome"] == "error"
    assert run.trace.usage == Usage(1, 6, 1, estimated=True)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body="<html>Sign in</html>", headers={"Content-Type": "text/html"}),
        Answer(body={"results": []}),
        Answer(body="{broken"),
        Answer(status=307, headers={"Location": "/elsewhere"}, body=""),
        Answer(body=b""),
    ],
)
async def test_an_answer_that_is_no_reply_is_an_http_event(
    ask: Ask, server: TrafficServer, run: AgentRun, answer: Answer
) -> None:
    server.answer = replace(answer)
    await ask("/v1/chat/completions", CHAT)
    assert run.events("llm_call") == []
    event = run.only("http")
    assert (event["tool"], event["label"], event["outcome"]) == ("http", "POST 127.0.0.1", "ok")
    assert event["status"] == answer.status
    assert "model" not in event
    assert run.trace.usage == Usage()


async def test_an_endless_event_is_not_kept(
    ask: Ask, server: TrafficServer, run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.tools.llm.body.MAX_BYTES", 1000)
    chunks = [b"data: " + b"x" * 2000, b"x" * 2000]
    server.answer = Answer(chunks=chunks, done=False)
    assert await ask("/v1/chat/completions", CHAT | {"stream": True}) == b"".join(chunks)
    assert run.only("http")["outcome"] == "ok"


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
async def test_a_key_that_is_refused_is_not_in_the_log(
    run: AgentRun, server: TrafficServer, header: str
) -> None:
    async def agent() -> None:
        async with async_client(httpx) as client:
            value = "Bearer its-my-own-word" if header == "Authorization" else "its-my-own-word"
            await client.post(server.url + "/v1/responses", json=asked, headers={header: value})

    asked = {"model": "gpt-5", "input": "Ahoi?"}
    refused = {"error": {"message": "Incorrect key provided: its-my-***word. See the docs."}}
    server.answer = Answer(status=401, body=refused)
    await run.task(agent())
    message = run.only("llm_call")["error"]["message"]
    assert "its-my" not in message
    assert "See the docs." in message


async def test_neither_prompts_nor_keys_are_in_the_log(
    run: AgentRun, server: TrafficServer, ask: Ask
) -> None:
    server.answer = Answer(text="Your key sk-proj-abcdefghijklmnop1234 is fine.")
    await ask("/v1/chat/completions", CHAT)
    written = json.dumps([event.data for event in run.sink.events]) + run.shown
    assert "Where did" not in written
    assert "abcdefghijklmnop" not in written
    assert "is fine." in written
