"""Calls to a model, over a real connection to a server that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from agents.cancellation import cleanup
from agents.exceptions import AgentError, AgentStopped, LLMError, RunIsOver
from agents.tools.http.pools import STREAMS_PER_POOL, Transports
from agents.tools.llm import endpoint
from agents.tools.llm.client import LLMReply, Model, TokenUsage, call_llm
from agents.tools.llm.reply import PartialReply
from agents.tools.llm.stand_in import StandIn
from agents.values import redaction
from tests.support.agent_run import AgentRun, turn_loop, within
from tests.support.llm_server import TEXT, Answer, LLMServer

KEY = "Zq81xLm3-PvT7kk2"  # of no known form: only we know that it is one
ASK = [{"role": "user", "content": "Where did the ship go? Keep the word xylophone to yourself."}]


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server
        server.release()


@pytest.fixture
async def model(server: LLMServer) -> AsyncIterator[Model]:
    model = Model(server.base_url, KEY, "test-model")
    yield model
    await model.aclose()
    redaction.forget_secrets()


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


def ask(run: AgentRun, model: Model, **options: Any) -> asyncio.Task[LLMReply]:
    return run.task(call_llm(run.guard, model, ASK, **options))


def stream_of(*deltas: dict[str, Any], reason: str | None = "stop", **more: Any) -> list[Any]:
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta}], **more} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return chunks


# --- what a call is -------------------------------------------------------------------------


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


async def test_what_is_not_json_is_refused_before_anything_is_sent(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    for content in (object(), "half of a pair: \ud800"):
        with pytest.raises(AgentError, match="not JSON"):
            await run.task(call_llm(run.guard, model, [{"role": "user", "content": content}]))
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


# --- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["start", "middle"])
@pytest.mark.parametrize("options", [{}, {"stream": False}])
async def test_a_stop_lets_the_call_in_flight_finish_and_refuses_the_next(
    server: LLMServer, model: Model, run: AgentRun, at: str, options: dict[str, Any]
) -> None:
    async def agent() -> None:
        texts.append((await call_llm(run.guard, model, ASK, **options)).text)
        await call_llm(run.guard, model, ASK, **options)
        texts.append("not to be reached")

    texts: list[str] = []
    server.hold(at if not options else "start")
    task = run.task(agent())
    await server.until_requests(1)
    run.stop()
    await turn_loop()
    assert not task.done()
    server.release()
    with pytest.raises(AgentStopped):
        await within(5, task)
    assert texts == [TEXT]
    await server.until(lambda: server.completed_count == 1, "the reply to be sent to its end")
    assert server.request_count == 1
    event = run.only("llm_call")
    assert (event["outcome"], event["text"], event["output_tokens"]) == ("ok", TEXT, 13)
    assert run.only("stop_observed") == {"tool": "call_llm", "label": "test-model"}
    assert run.guard.calls_started_after_acknowledgement == 0
    assert run.trace.usage.llm_calls == 1


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_a_task_group_that_falls_apart_on_a_stop_does_not_cut_a_siblings_call(
    server: LLMServer, model: Model, run: AgentRun, at: str
) -> None:
    async def sibling() -> None:
        await stopped.wait()
        run.guard.check("test")

    async def agent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call_llm(run.guard, model, ASK))
            group.create_task(sibling())

    stopped = asyncio.Event()
    server.hold(at)
    task = run.task(agent())
    await server.until_requests(1)
    run.stop()
    stopped.set()
    await turn_loop()
    assert not task.done()
    server.release()
    with pytest.raises(BaseExceptionGroup) as caught:
        await within(5, task)
    assert caught.group_contains(AgentStopped)
    await server.until(lambda: server.completed_count == 1, "the reply to be sent to its end")
    assert server.aborted_count == 0
    event = run.only("llm_call")
    assert (event["outcome"], event["text"], event["input_tokens"]) == ("ok", TEXT, 21)
    assert run.trace.usage.output_tokens == 13


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_an_agents_own_time_limit_cuts_and_loses_no_connection(
    server: LLMServer, run: AgentRun, at: str
) -> None:
    transports = Transports()
    model = Model(server.base_url, KEY, "test-model", transports=transports)
    server.hold(at)

    async def impatient() -> None:
        async with asyncio.timeout(0.02):
            await call_llm(run.guard, model, ASK)

    for _ in range(5):
        tasks = [run.task(impatient()) for _ in range(10)]
        await within(10, asyncio.wait(tasks))
        assert all(isinstance(task.exception(), TimeoutError) for task in tasks)
    server.release()
    assert (await within(5, ask(run, model))).text == TEXT
    await server.until(lambda: server.open_count == 1, "the cut connections to close")
    outcomes = [event["outcome"] for event in run.events("llm_call")]
    assert outcomes == ["aborted"] * 50 + ["ok"]
    assert [pool.busy_count for pool in transports._http2_async._pools] == [0]
    await model.aclose()
    await transports.aclose()


async def test_a_stop_while_an_answer_is_awaited_refuses_the_retry(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(status=500)
    server.hold()
    call = ask(run, model)
    await server.until_requests(1)
    run.stop()
    server.release()
    with pytest.raises(AgentStopped):
        await within(5, call)
    assert server.request_count == 1
    assert run.only("llm_call")["outcome"] == "stopped"
    assert run.trace.usage.llm_calls == 0


async def test_a_stop_ends_the_pause_before_a_retry(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(status=429, headers={"Retry-After": "60"})
    call = ask(run, model)
    await server.until(lambda: server.closed_count == 1, "the first answer to be given up")
    run.stop()
    with pytest.raises(AgentStopped):
        await within(2, call)
    assert server.request_count == 1


async def test_within_cleanup_a_call_goes_through_and_is_retried(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answers.append(Answer(status=429, headers={"Retry-After": "0.3"}))

    async def agent() -> str:
        run.stop()
        async with cleanup(5):
            return (await call_llm(run.guard, model, ASK)).text

    started = time.monotonic()
    assert await within(5, run.task(agent())) == TEXT
    assert time.monotonic() - started >= 0.3  # the endpoint's wish is respected
    assert server.request_count == 2
    assert run.only("llm_call")["cleanup"] is True


async def test_an_abort_refuses_the_next_chunk_and_what_came_counts(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(text="word " * 2000, pause=0.005)
    call = ask(run, model)
    async with asyncio.timeout(5):
        while len(run.sink.texts) < 3:
            await asyncio.sleep(0.001)
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(2, call)
    await server.until(lambda: server.aborted_count == 1, "the connection to be closed")
    event = run.only("llm_call")
    assert event["outcome"] == "stopped"
    assert event["estimated"] is True
    assert event["text"] == run.shown
    assert 0 < event["output_tokens"] < 500
    assert run.trace.usage.estimated


async def test_a_call_after_the_end_of_the_run_is_refused(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    await run.guard.settle()
    with pytest.raises(RunIsOver):
        await ask(run, model)
    assert server.request_count == 0


# --- errors ---------------------------------------------------------------------------------

NO_RETRY = {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("answer", "message", "status", "detail"),
    [
        (
            Answer(status=401, body={"error": {"message": f"Who is {KEY[:9]}***k2?"}}),
            "answered 401: Who is [redacted]",
            401,
            "Who is [redacted]",
        ),
        (
            Answer(status=404, body={"error": {"message": "The model does not exist"}}),
            "answered 404: The model does not exist",
            404,
            "The model does not exist",
        ),
        (
            Answer(status=429, body={"error": {"message": "slow down"}}, headers=NO_RETRY),
            "answered 429: slow down",
            429,
            "slow down",
        ),
        (
            Answer(status=500, body="<html>nginx</html>", headers=NO_RETRY),
            "the model's endpoint answered 500",
            500,
            "",
        ),
        (Answer(status=400, body={"error": "as Ollama"}), "answered 400: as Ollama", 400, None),
        (Answer(status=422, body={"detail": "as vLLM"}), "answered 422: as vLLM", 422, "as vLLM"),
        (Answer(status=400, body="x" * 5000), "answered 400: xxx", 400, None),
        (Answer(body="not json"), "not JSON", None, ""),
        (Answer(body=b"\xff\xfe\xff"), "not JSON", None, ""),
        (Answer(body="[1]"), "not a JSON object", None, ""),
        (Answer(body="hello", headers={"Content-Type": "text/html"}), "text/html", 200, ""),
        (Answer(body={"choices": []}), "without a choice", None, ""),
        (Answer(body={"error": {"message": "in a 200"}}), "error: in a 200", None, "in a 200"),
        (Answer(chunks=["data: {broken\n\n"]), "not JSON", None, ""),
        (Answer(chunks=[], done=True), "without a choice", None, ""),
        (
            Answer(chunks=[{"error": {"message": "overloaded"}}]),
            "reports an error: overloaded",
            None,
            "overloaded",
        ),
        (Answer(drop_after=3), "broke off the connection", None, None),
        (Answer(drop_after=3, until_close=True), "broke off", None, ""),
    ],
)
async def test_what_goes_wrong_at_the_endpoint_is_an_error_that_says_so(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    answer: Answer,
    message: str,
    status: int | None,
    detail: str | None,
) -> None:
    server.answer = answer
    with pytest.raises(LLMError) as caught:
        await within(5, ask(run, model))
    assert message in str(caught.value)
    assert caught.value.status == status
    assert detail is None or caught.value.detail == detail
    assert len(str(caught.value)) < 700
    assert server.request_count == 1
    event = run.only("llm_call")
    assert (event["outcome"], event["error"]["type"]) == ("error", "LLMError")
    begun = answer.drop_after == 3
    assert run.trace.usage.llm_calls == (1 if begun else 0)
    assert run.trace.usage.estimated == begun
    assert busy_counts(model) == [0]
    server.answer = Answer()
    assert (await within(5, ask(run, model))).text == TEXT


def busy_counts(model: Model) -> list[int]:
    transports: Any = model._own_transports
    return [pool.busy_count for pool in transports._http2_async._pools]


async def test_the_sdk_tries_again_where_that_may_help(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    soon = {"Retry-After": "0.01"}
    server.answers.extend([Answer(status=429, headers=soon), Answer(status=503, headers=soon)])
    assert (await ask(run, model)).text == TEXT
    assert server.request_count == 3
    assert run.trace.usage.llm_calls == 1


async def test_an_endpoint_that_drops_connections_can_not_be_reached(server: LLMServer) -> None:
    model, run = Model(server.base_url, KEY, "m", max_retries=1), AgentRun()
    server.answer = Answer(drop_after=0)
    with pytest.raises(LLMError, match="can't be reached"):
        await within(5, ask(run, model))
    assert server.request_count == 2
    await model.aclose()


async def test_an_endpoint_that_is_not_there_can_not_be_reached(run: AgentRun) -> None:
    model = Model("http://127.0.0.1:9/v1", KEY, "m", max_retries=0)
    with pytest.raises(LLMError, match=r"can't be reached: .*connect") as caught:
        await within(5, ask(run, model))
    assert caught.value.status is None
    assert caught.value.__cause__ is not None
    await model.aclose()


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_an_endpoint_that_falls_silent_is_given_up(
    server: LLMServer, run: AgentRun, at: str
) -> None:
    model = Model(server.base_url, KEY, "m", timeout=0.1, max_retries=0)
    server.hold(at)
    with pytest.raises(LLMError, match="did not answer in time"):
        await within(5, ask(run, model))
    assert run.trace.usage.llm_calls == (at == "middle")
    await model.aclose()


async def test_a_call_has_an_end_although_pieces_keep_coming(
    server: LLMServer, run: AgentRun
) -> None:
    model = Model(server.base_url, KEY, "m", total_timeout=0.5)
    server.answer = Answer(text="word " * 2000, pause=0.01)
    with pytest.raises(LLMError, match=r"more than 0\.5 s"):
        await within(5, ask(run, model))
    assert run.trace.usage.estimated
    await model.aclose()


async def test_neither_key_nor_prompt_is_logged_or_in_an_error(
    server: LLMServer, model: Model, run: AgentRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await ask(run, model)
    server.answers.append(Answer(status=429, headers={"Retry-After": "0.01"}))
    await ask(run, model)
    server.answers.append(Answer(text=f"Your secret is {KEY}."))
    await ask(run, model)
    assert run.shown.endswith("Your secret is [redacted].")
    server.answer = Answer(status=400, body={"error": {"message": f"bad key {KEY}"}})
    with pytest.raises(LLMError) as caught:
        await ask(run, model)
    said = f"{caplog.text} {caught.value} {caught.value.detail} {run.sink.events}"
    assert KEY not in said
    assert "xylophone" not in said
    assert not [r for r in caplog.records if r.name.startswith(("http", "openai"))]


# --- usage ----------------------------------------------------------------------------------


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


# --- dialects -------------------------------------------------------------------------------


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


# --- the stand-in ---------------------------------------------------------------------------


async def test_without_address_and_key_the_stand_in_answers_and_says_who_it_is() -> None:
    model, run = Model(transport=StandIn(speed=math.inf)), AgentRun()
    assert model.is_stand_in
    assert model.label == "stand-in"
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
    assert model.label == "m at api.openai.com"
    redaction.forget_secrets()


async def test_a_fake_transport_may_carry_the_requests(run: AgentRun) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)
        choice = {"message": {"content": asked["model"].upper()}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice]})

    model = Model("http://x.invalid/v1", "", "m", transport=httpx2.MockTransport(answer))
    assert (await ask(run, model)).text == "M"
    await model.aclose()
