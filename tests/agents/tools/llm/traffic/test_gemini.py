"""Gemini's protocol, as google-genai speaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents.trace import Usage
from tests.support.agent_run import AgentRun
from tests.support.llm_server import Answer
from tests.support.traffic_server import TrafficServer, events

from .conftest import Ask

PATH = "/v1beta/models/gemini-3:generateContent"
STREAM = "/v1beta/models/gemini-3:streamGenerateContent"
ASKED: Any = {"contents": [{"role": "user", "parts": [{"text": "Where is it?"}]}]}
CALLS: list[Any] = [
    {"functionCall": {"name": "look", "args": {"at": 1}}},
    {"functionCall": {"name": "look", "args": {"at": 2}}},
]


def _chunk(parts: list[Any], reason: str | None = None, **usage: int) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason}
    usage = {"promptTokenCount": 5, **usage}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-3-1"}


CHUNKS = [
    _chunk([{"text": "Hm.", "thought": True}], thoughtsTokenCount=4),
    _chunk([{"text": "Let me "}], thoughtsTokenCount=4, candidatesTokenCount=2),
    _chunk([{"text": "look."}], thoughtsTokenCount=4, candidatesTokenCount=4),
    _chunk(CALLS[:1], thoughtsTokenCount=4, candidatesTokenCount=5),
    _chunk(CALLS[1:], "STOP", thoughtsTokenCount=4, candidatesTokenCount=6),
]
WHOLE = _chunk(
    [part for chunk in CHUNKS for part in chunk["candidates"][0]["content"]["parts"]],
    "STOP",
    thoughtsTokenCount=4,
    candidatesTokenCount=6,
)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        pytest.param(PATH, Answer(body=WHOLE), id="whole"),
        pytest.param(f"{STREAM}?alt=sse", events(*CHUNKS, is_named=False), id="events"),
        pytest.param(STREAM, Answer(body=json.dumps(CHUNKS)), id="a list"),
        pytest.param("/v1/projects/p/locations/l/publishers/google/models/gemini-3:generateContent",
                     Answer(body=WHOLE), id="vertex"),
    ],
)  # fmt: skip
async def test_content(
    ask: Ask, server: TrafficServer, run: AgentRun, path: str, answer: Answer
) -> None:
    server.answer = answer
    await ask(path, ASKED)
    event = run.only("llm_call")
    assert (event["label"], event["model"]) == ("gemini-3", "gemini-3-1")
    assert event["text"] == "Let me look."
    called = [call["function"]["arguments"] for call in event["tool_calls"]]
    assert called == ['{"at": 1}', '{"at": 2}']
    assert event["finish_reason"] == "tool_calls"
    assert run.trace.usage == Usage(1, 5, 10)
    assert run.shown == "Let me look."
    assert "Hm." not in str(run.sink.events)


async def test_a_stream_that_breaks_off_is_estimated(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    server.answer = events(*CHUNKS[:2], is_named=False)
    await ask(f"{STREAM}?alt=sse", ASKED)
    assert run.only("llm_call")["text"] == "Let me "
    assert run.trace.usage == Usage(1, 5, 6, estimated=True)


async def test_a_blocked_prompt_is_a_reply(ask: Ask, server: TrafficServer, run: AgentRun) -> None:
    feedback = {"blockReason": "SAFETY"}
    usage = {"promptTokenCount": 5}
    server.answer = Answer(body={"promptFeedback": feedback, "usageMetadata": usage})
    await ask(PATH, ASKED)
    assert run.only("llm_call")["finish_reason"] == "content_filter"
    assert run.trace.usage.input_tokens == 5


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("embedContent", {"content": {"parts": [{"text": "Ahoi ship"}]}}),
        ("batchEmbedContents", {"requests": [{"content": {"parts": [{"text": "Ahoi ship"}]}}]}),
    ],
)
async def test_embeddings(
    ask: Ask, server: TrafficServer, run: AgentRun, path: str, body: Any
) -> None:
    server.answer = Answer(body={"embedding": {"values": [0.1]}})
    await ask(f"/v1beta/models/embed-1:{path}", body)
    assert run.only("llm_call")["label"] == "embed-1"
    assert run.trace.usage == Usage(1, 3, 0, estimated=True)


async def test_counting_tokens_is_an_http_event(
    ask: Ask, server: TrafficServer, run: AgentRun
) -> None:
    server.answer = Answer(body={"totalTokens": 3})
    await ask("/v1beta/models/gemini-3:countTokens", ASKED)
    assert run.only("http")
