"""What a call is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from agents.exceptions import AgentError
from agents.tools.llm.client import LLMReply, Model, TokenUsage, call_llm
from tests.support.agent_run import AgentRun
from tests.support.llm_calls import KEY, ask
from tests.support.llm_server import TEXT, Answer, LLMServer


async def test_a_reply_comes_back_whole_is_shown_as_it_comes_and_recorded(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    reply = await ask(run, model)
    assert reply == LLMReply(TEXT, [], TokenUsage(21, 13), "test-model", "stop")
    assert run.shown == TEXT
    assert len(run.sink.texts) > 3
    event = run.only("llm_call")
    assert {call for call, _ in run.sink.texts} == {event["call"]}
    assert event["tool"] == "call_llm"
    assert event["label"] == event["model"] == "test-model"
    assert event["outcome"] == "ok"
    assert event["text"] == TEXT
    assert event["tool_calls"] == []
    assert (event["input_tokens"], event["output_tokens"]) == (21, 13)
    assert event["estimated"] is False
    assert event["finish_reason"] == "stop"
    assert run.trace.usage.as_dict() == {
        "llm_calls": 1,
        "input_tokens": 21,
        "output_tokens": 13,
        "estimated": False,
    }
    sent = server.requests[0]
    assert sent.body["stream"] is True
    assert sent.body["stream_options"] == {"include_usage": True}
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert run.events("http") == []  # the request is a part of the call


async def test_a_call_is_in_flight_as_long_as_it_takes(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.hold("middle")
    call = ask(run, model, model_name="other-model")
    await server.until_requests(1)
    (info,) = run.trace.in_flight()
    assert (info["tool"], info["label"]) == ("call_llm", "other-model")
    server.release()
    await call
    assert run.trace.in_flight() == []


@pytest.mark.parametrize("answer", [Answer(), Answer(plain=True)])
async def test_a_caller_may_ask_for_no_stream(
    server: LLMServer, model: Model, run: AgentRun, answer: Answer
) -> None:
    server.answer = answer
    reply = await ask(run, model, stream=False)
    assert reply == LLMReply(TEXT, [], TokenUsage(21, 13), "test-model", "stop")
    assert "stream_options" not in server.requests[0].body
    assert run.shown == TEXT


async def test_an_endpoint_that_does_not_stream_is_understood(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(plain=True)
    reply = await ask(run, model)
    assert reply == LLMReply(TEXT, [], TokenUsage(21, 13), "test-model", "stop")


async def test_parameters_and_tools_go_to_the_endpoint_as_they_are(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    await ask(
        run,
        model,
        tools=tools,
        temperature=0,
        top_k=7,
        extra_headers={"X-Mine": "1"},
        extra_body={"seed": 3},
    )
    body = server.requests[0].body
    assert body["tools"] == tools
    assert (body["temperature"], body["top_k"], body["seed"]) == (0, 7, 3)
    assert server.requests[0].headers["x-mine"] == "1"


async def test_without_a_key_none_is_sent_whatever_the_environment_holds(
    server: LLMServer, run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else-1")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-of-somebody-else-2")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody-else")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-somebody-else")
    model = Model(server.base_url, "", "test-model")
    assert not model.is_stand_in
    await ask(run, model)
    assert "authorization" not in server.requests[0].headers
    assert "somebody" not in str(server.requests[0].headers)
    await model.aclose()


@pytest.mark.parametrize(
    "messages",
    ["hello", [], ["hello"], {"role": "user"}, [{"content": "x"}], [{"role": 1}], None, 3],
)
async def test_messages_that_are_none_are_refused_before_anything_is_sent(
    server: LLMServer, model: Model, run: AgentRun, messages: Any
) -> None:
    with pytest.raises(AgentError, match="message"):
        await run.task(call_llm(run.guard, model, messages))
    assert server.request_count == 0
    assert run.sink.events == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (object(), "object"),
        (b"\xff\xfe", "invalid utf-8"),
        (float("nan"), "messages.0.content.*NaN"),
        ([{"type": "text", "text": float("-inf")}], "messages.0.content.0.text.*infinite"),
        (10**2000, "digits"),
        ((part for part in "ab"), "iterator"),
    ],
)
async def test_what_json_can_not_hold_is_refused_before_anything_is_sent(
    server: LLMServer, model: Model, run: AgentRun, content: Any, problem: str
) -> None:
    with pytest.raises(AgentError, match=f"not JSON: .*{problem}"):
        await run.task(call_llm(run.guard, model, [{"role": "user", "content": content}]))
    assert server.request_count == 0
    assert run.sink.events == []


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("half of a pair: \ud83d", "half of a pair: \ufffd"),
        ("two halves: " + "\ud83d" + "\ude00", "two halves: 😀"),
        ("NUL: \0", "NUL: \ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
    ],
)
async def test_texts_are_sent_in_a_form_that_every_endpoint_can_read(
    server: LLMServer, model: Model, run: AgentRun, text: str, sent: str
) -> None:
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
    messages = [
        {"role": "user", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": text}}]
    task = call_llm(run.guard, model, messages, tools=tools, stop=[text], extra_body={"x": text})
    await run.task(task)
    body = server.requests[0].body
    assert body["messages"][0]["content"] == body["messages"][1]["content"][0]["text"] == sent
    assert body["messages"][2]["tool_calls"][0]["function"] == {"name": sent, "arguments": sent}
    assert (body["tools"][0]["function"]["description"], body["stop"]) == (sent, [sent])
    assert body["x"] == sent


@pytest.mark.parametrize("value", ["a\nb", "schlüssel", "\ud800"])
async def test_a_header_that_can_not_be_sent_is_refused_by_name(
    server: LLMServer, model: Model, run: AgentRun, value: str
) -> None:
    with pytest.raises(AgentError, match=r"extra_headers\['X-Mine'\]") as caught:
        await ask(run, model, extra_headers={"X-Mine": value})
    assert value not in str(caught.value)
    assert server.request_count == 0


async def test_a_model_must_have_a_name(server: LLMServer, run: AgentRun) -> None:
    model = Model(server.base_url)
    with pytest.raises(AgentError, match="no model was named"):
        await ask(run, model)
    assert (await ask(run, model, model_name="named")).model == "named"
    await model.aclose()


@pytest.mark.parametrize(
    ("url", "key"), [("ftp://x/v1", ""), ("x", ""), ("", "a\nb"), ("", "ключ")]
)
def test_what_no_endpoint_can_have_is_refused(url: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"address|key") as caught:
        Model(url, key)
    assert not key or key not in str(caught.value)


def test_the_sdk_starts_no_process_in_a_run() -> None:
    """It asks for the platform at its first request; that would count as the run's process."""
    code = (
        "import sys; started = []\n"
        "sys.addaudithook(lambda name, _: name == 'subprocess.Popen' and started.append(name))\n"
        "import agents.tools.llm.endpoint, openai._base_client as client\n"
        "started.clear(); client.get_platform(); client.platform_headers('x', platform=None)\n"
        "print(len(started))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "0"
