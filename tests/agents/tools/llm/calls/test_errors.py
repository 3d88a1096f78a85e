"""Errors."""

from __future__ import annotations

import logging

import pytest

from agents.exceptions import LLMError
from agents.tools.llm.client import Model
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import KEY, ask, busy_counts
from tests.support.llm_server import TEXT, Answer, LLMServer

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
    has_started = answer.drop_after == 3
    assert run.trace.usage.llm_calls == (1 if has_started else 0)
    assert run.trace.usage.estimated == has_started
    assert busy_counts(model) == [0]
    server.answer = Answer()
    assert (await within(5, ask(run, model))).text == TEXT


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
    usage = run.trace.usage  # the request was sent
    assert (usage.llm_calls, usage.output_tokens > 0) == (1, at == "middle")
    await model.aclose()


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_call_has_an_end_and_what_was_sent_is_paid_for(
    server: LLMServer, run: AgentRun, has_begun: bool
) -> None:
    model = Model(server.base_url, KEY, "m", total_timeout=1)
    server.answer = Answer(text="word " * 2000, pause=0.01)
    if not has_begun:
        server.hold()
    with pytest.raises(LLMError, match="more than 1 s"):
        await within(5, ask(run, model))
    usage = run.trace.usage
    assert (usage.llm_calls, usage.estimated, usage.input_tokens > 0) == (1, True, True)
    assert (usage.output_tokens > 0) == has_begun
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
