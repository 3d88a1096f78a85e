"""How an agent ends without a stop request, and what its outcome says."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import httpx
import pytest

from agents import AgentError, AgentStopped, SyncTools, Tools, runtime, should_stop
from agents.cancellation import current_token
from agents.guard import current_guard
from agents.runtime import Outcome, task_factory
from agents.trace import current_trace
from agents.values import redaction
from tests.support.started_run import SECONDS, Started, ended, turns


async def test_what_the_function_returns_is_the_result() -> None:
    async def work(tools: Tools) -> dict[str, Any]:
        return {"n": 1}

    run = Started(work)
    assert await run.outcome() == Outcome("success", result={"n": 1})
    assert [event.type for event in run.sink.events] == ["agent_start"]


async def test_a_def_agent_runs_in_a_thread_with_its_context() -> None:
    def work(tools: SyncTools) -> list[Any]:
        assert current_token() is not None
        assert current_trace() is current_guard().trace  # type: ignore[union-attr]
        tools.data_store.set("a", 1)
        return [threading.current_thread() is not threading.main_thread(), should_stop()]

    run = Started(work)
    assert (await run.outcome()).result == [True, False]
    assert run.only("data_store")["key"] == "a"


RAISED: list[tuple[BaseException, str, str]] = [
    (ValueError("bad"), "unhandled_exception", "ValueError"),
    (AgentError("mine"), "agent_error", "AgentError"),
    (AgentStopped("by myself"), "stopped_without_request", "AgentStopped"),
    (SystemExit(0), "unhandled_exception", "SystemExit"),
    (KeyboardInterrupt(), "unhandled_exception", "KeyboardInterrupt"),
    (asyncio.CancelledError(), "unhandled_exception", "CancelledError"),
    (GeneratorExit(), "unhandled_exception", "GeneratorExit"),
    (StopAsyncIteration(), "unhandled_exception", "StopAsyncIteration"),
    # A coroutine can't raise this one: Python makes a RuntimeError of it.
    (StopIteration(), "unhandled_exception", "RuntimeError"),
    (ExceptionGroup("several", [ValueError("one")]), "unhandled_exception", "ValueError"),
    (
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
        "unhandled_exception",
        "ExceptionGroup",
    ),
]
IDS = [f"{type(error).__name__}-{name}" for error, _, name in RAISED]


@pytest.mark.parametrize(("error", "code", "name"), RAISED, ids=IDS)
@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_whatever_is_raised_without_a_stop_ends_as_an_error(
    error: BaseException, code: str, name: str, is_async: bool
) -> None:
    async def coroutine(tools: Tools) -> None:
        raise error

    def function(tools: SyncTools) -> None:
        raise error

    run = Started(coroutine if is_async else function)
    outcome = await run.outcome()
    assert (outcome.kind, outcome.cleanup_error) == ("error", None)
    assert outcome.error is not None
    assert (outcome.error["code"], outcome.error["type"]) == (code, name)
    assert run.token.observed_at is None
    data = run.only("error")
    assert data["code"] == code
    assert name in data["traceback"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        AgentStopped("by myself"),
        GeneratorExit(),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("way", ["task", "gather", "TaskGroup"])
async def test_whatever_a_task_of_the_agent_raises_without_a_stop_ends_as_an_error(
    error: BaseException, way: str
) -> None:
    async def branch() -> None:
        raise error

    async def work(tools: Tools) -> None:
        match way:
            case "task":
                await asyncio.create_task(branch())
            case "gather":
                await asyncio.gather(branch(), asyncio.sleep(0))
            case "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(branch())
                    group.create_task(asyncio.Event().wait())

    outcome = await ended(work)
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["type"] == type(error).__name__


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("way", ["task", "TaskGroup"])
def test_a_task_that_wants_to_end_the_process_ends_its_run_as_an_error(
    error: BaseException, way: str
) -> None:
    """asyncio lets these two out of the loop; a host, as we are here, lets it run on."""

    async def branch() -> None:
        raise error

    async def work(tools: Tools) -> None:
        if way == "task":
            await asyncio.create_task(branch())
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())

    async def begin() -> Started:
        return Started(work)

    loop = asyncio.new_event_loop()
    loop.set_task_factory(task_factory)  # type: ignore[arg-type]
    try:
        run = loop.run_until_complete(begin())
        with pytest.raises(type(error)):
            loop.run_until_complete(run.ending)
        outcome = loop.run_until_complete(run.outcome())
    finally:
        loop.close()
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["type"] == type(error).__name__


async def test_a_task_that_was_cancelled_by_the_agent_itself_ends_as_an_error() -> None:
    async def work(tools: Tools) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    outcome = await ended(work)
    assert outcome.error is not None
    assert (outcome.kind, outcome.error["type"]) == ("error", "CancelledError")


async def test_an_agent_that_cancels_its_own_task_is_still_waited_for() -> None:
    """The cancellation is met by the first await after the agent, which must not be ours."""
    started, may_answer = threading.Event(), threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        started.set()
        assert may_answer.wait(SECONDS)
        return httpx.Response(200, text="hello")

    def fetch() -> None:
        with httpx.Client(transport=run.sync_transport) as client:  # type: ignore[attr-defined]
            client.get("http://x")

    async def work(tools: Tools) -> None:
        from agents import guarded_transport

        run.sync_transport = guarded_transport(httpx.MockTransport(answer))  # type: ignore[attr-defined]
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(fetch,), daemon=True).start()
        await asyncio.to_thread(started.wait, SECONDS)
        asyncio.current_task().cancel()  # type: ignore[union-attr]

    run = Started(work)
    await asyncio.to_thread(started.wait, SECONDS)
    await turns(20)
    assert not run.ending.done(), "the run has ended, and a call is in flight"
    may_answer.set()
    outcome = await run.outcome()
    assert outcome.error is not None
    assert (outcome.kind, outcome.error["type"]) == ("error", "CancelledError")


async def test_a_result_that_json_cant_hold_is_an_error_that_keeps_what_can_be_shown() -> None:
    async def work(tools: Tools) -> Any:
        return {"n": float("nan"), "o": object}

    outcome = await ended(work)
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["code"] == "invalid_output"
    assert outcome.partial_result["n"] == "NaN"


async def test_an_exception_that_cant_be_printed_is_an_error_like_any_other() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

        __repr__ = __str__

    async def work(tools: Tools) -> None:
        try:
            raise Unprintable
        except Unprintable as error:
            raise Unprintable from error

    outcome = await ended(work)
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert outcome.error["type"] == "Unprintable"


async def test_secrets_are_taken_out_of_errors_and_tracebacks() -> None:
    secret = "correct-horse-battery-staple"
    redaction.add_secret(secret)

    async def work(tools: Tools) -> None:
        raise ValueError("x" * (runtime.MAX_MESSAGE - 5) + secret)

    async def long_traceback(tools: Tools) -> None:
        text = "x" * (runtime.MAX_TRACEBACK - 2_000)
        for length in range(0, 2_000, 5):
            try:
                raise ValueError(text + "y" * length + secret)
            except ValueError as error:
                runtime._emit_error(current_guard(), error)  # type: ignore[arg-type]

    try:
        run = Started(work)
        outcome = await run.outcome()
        assert secret[:4] not in str(outcome.error)
        assert secret[:4] not in str(run.only("error"))
        run = Started(long_traceback)
        await run.outcome()
        for data in run.events("error"):
            assert secret[:4] not in data["traceback"]
    finally:
        redaction.forget_secrets()
