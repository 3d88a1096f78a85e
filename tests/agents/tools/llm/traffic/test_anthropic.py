"""Anthropic's protocol, as its SDK speaks it."""

from __future__ import annotations

from typing import Any

import pytest

from agents.trace import Usage
from tests.support.agent_run import AgentRun
from tests.support.llm_server import Answer
from tests.support.traffic_server import TrafficServer, events

from .conftest import Ask

ASKED: Any = {
    "model": "claude-opus-5",
    "max_tokens": 100,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Where is it?"}]}],
}
USAGE = {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 2}
BLOCKS: list[Any] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
    {"type": "text", "text": "Let me look."},
    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
    {"type": "tool_use", "id": "toolu_2", "name": "wait", "input": {}},
]
MESSAGE: Any = {
    "type": "message",
    "model": "claude-opus-5-1",
    "content": BLOCKS,
    "stop_reason": "tool_use",
    "usage": {**USAGE, "output_tokens": 9},
}
CALLS = [
    {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
    {"id": "toolu_2", "type": "function", "function": {"name": "wait", "arguments": "{}"}},
]


def _block(index: int, start: Any, *deltas: Any) -> list[Any]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


_START = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
EVENTS: list[Any] = [
    {"type": "message_start", "message": _START},
    {"type": "ping"},
    *_block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm."}),
    *_block(
        1,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "Let me "},
        {"type": "text_delta", "text": "look."},
    ),
    *_block(
        2,
        {**BLOCKS[2], "input": {}},
        {"type": "input_json_delta", "partial_json": '{"at"'},
        {"type": "input_json_delta", "partial_json": ": 1}"},
    ),
    *_block(3, BLOCKS[3]),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 9},
    },
    {"type": "message_stop"},
]


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages?beta=true"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_message(
    ask: Ask, server: TrafficServer, run: AgentRun, path: str, stream: bool
) -> None:
    server.answer = events(*EVENTS) if stream else Answer(body=MESSAGE)
    await ask(path, {**ASKED, "stream": stream})
    event = run.only("llm_call")
    assert (event["label"], event["model"]) == ("claude-opus-5", "claude-opus-5-1")
    assert (event["text"], event["tool_calls"]) == ("Let me look.", CALLS)
    assert event["finish_reason"] == "tool_calls"
    assert run.trace.usage == Usage(1, 25, 9)
    assert run.shown == "Let me look."
    assert "Hm." not in str(run.sink.events)


async def test_a_stream_that_breaks_off_reports_its_input_only(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    server.answer = events(*EVENTS[:7])
    await ask("/v1/messages", {**ASKED, "stream": True})
    event = run.only("llm_call")
    assert (event["text"], event["input_tokens"], event["output_tokens"]) == ("Let me ", 25, 3)
    assert run.trace.usage.estimated


async def test_an_error_in_the_stream(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    server.answer = events(error)
    await ask("/v1/messages", {**ASKED, "stream": True})
    event = run.only("llm_call")
    assert (event["outcome"], run.trace.usage) == ("error", Usage())
    assert "Overloaded" in event["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages/batches"])
async def test_what_asks_no_model_is_an_http_event(
    ask: Ask, server: TrafficServer, run: AgentRun, path: str
) -> None:
    server.answer = Answer(body={"input_tokens": 12})
    await ask(path, ASKED)
    assert run.events("llm_call") == []
    assert run.only("http")["status"] == 200


async def test_messages_of_another_kind_are_http_events(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    await ask("/v1/threads/1/messages", {"role": "user", "content": "Hello."})
    assert run.only("http")
