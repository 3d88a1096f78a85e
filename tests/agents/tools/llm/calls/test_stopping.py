"""Stopping."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from agents.cancellation import cleanup
from agents.exceptions import AgentStopped, RunIsOver
from agents.tools.http.pools import Transports
from agents.tools.llm.client import Model, call_llm
from tests.support.agent_run import AgentRun, turn_loop, within
from tests.support.llm_calls import ASK, KEY, ask, busy_counts
from tests.support.llm_server import TEXT, Answer, LLMServer


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
    assert time.monotonic() - started >= 0.3  # as long as the endpoint asked for
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
    assert event["outcome"] == "aborted"
    assert event["estimated"] is True
    assert event["text"] == run.shown
    assert 0 < event["output_tokens"] < 500
    assert run.trace.usage.estimated


@pytest.mark.parametrize("mode", ["graceful", "abort"])
@pytest.mark.parametrize("form", ["a document", "a stream with another label", "JSON lines"])
async def test_a_stop_in_the_middle_is_as_exact_in_every_form_of_answer(
    server: LLMServer, model: Model, run: AgentRun, mode: str, form: str
) -> None:
    words = [f"{number} " for number in range(4)]
    pieces: list[Any] = [{"choices": [{"delta": {"content": word}}]} for word in words]
    pieces.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    if form == "JSON lines":
        pieces = [json.dumps(piece) + "\n" for piece in pieces]
    if form == "a document":
        choice = {"message": {"content": "".join(words)}, "finish_reason": "stop"}
        raw = json.dumps({"choices": [choice]})
        pieces = [raw[at : at + 20] for at in range(0, len(raw), 20)]
    server.answer = Answer(chunks=pieces, done=False, headers={"Content-Type": "text/plain"})
    server.hold("middle")  # after the second piece
    call = ask(run, model)
    await server.until_requests(1)
    await turn_loop()
    run.stop(mode)
    server.release()
    if mode == "graceful":
        assert (await within(5, call)).text == "".join(words)
        await server.until(lambda: server.completed_count == 1, "the reply to be sent to its end")
        assert run.only("llm_call")["outcome"] == "ok"
    else:
        with pytest.raises(AgentStopped):
            await within(5, call)
        assert run.only("llm_call")["outcome"] == "aborted"
        await server.until(lambda: server.open_count == 0, "the connection to be closed")
    with pytest.raises(AgentStopped):
        await ask(run, model)
    assert server.request_count == 1
    assert busy_counts(model) == [0]


async def test_a_call_after_the_end_of_the_run_is_refused(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    await run.guard.settle()
    with pytest.raises(RunIsOver):
        await ask(run, model)
    assert server.request_count == 0
