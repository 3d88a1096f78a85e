"""How an agent ends that was asked to stop, and what is said of that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agents import AgentStopped, SyncTools, Tools, check_should_stop, should_stop
from agents.runtime import Outcome
from tests.support.agent_run import AgentRun, within
from tests.support.started_run import MESSAGES, SECONDS, SlowStore, Started, turns


async def test_a_token_that_is_stopped_already_means_that_the_function_is_never_called() -> None:
    called: list[int] = []

    async def work(tools: Tools) -> None:
        called.append(1)

    parent = AgentRun()
    parent.stop()
    run = Started(work, parent=parent)
    assert await run.outcome() == Outcome("stopped")
    assert called == []
    assert [event.type for event in run.sink.events] == ["agent_start", "stop_observed"]


async def test_the_call_in_flight_finishes_and_the_next_is_refused() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        await tools.data_store.set("a", 1)
        await tools.data_store.set("b", 1)

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    run.stop()
    await turns()
    assert not run.ending.done()
    store.may_write.set()
    assert await run.outcome() == Outcome("stopped")
    assert store.entries == {"default": {"a": 1}}
    assert run.only("data_store")["outcome"] == "ok"
    assert run.only("stop_observed") == {"tool": "data_store.set", "label": "default/b"}
    assert run.guard.calls_started_after_acknowledgement == 0


async def test_a_stop_that_was_not_observed_changes_nothing() -> None:
    async def work(tools: Tools) -> str:
        run.stop()
        return "done"

    run = Started(work)
    assert await run.outcome() == Outcome("success", result="done")
    assert run.token.observed_at is None


async def test_an_error_before_the_stop_was_met_is_an_error() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        raise ValueError("bad")

    run = Started(work)
    assert (await run.outcome()).kind == "error"


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_except_exception_does_not_swallow_a_stop(is_async: bool) -> None:
    steps: list[str] = []

    async def coroutine(tools: Tools) -> None:
        while True:
            try:
                run.stop()
                await tools.data_store.get("a")
            except Exception:
                steps.append("swallowed")
            finally:
                steps.append("finally")

    def function(tools: SyncTools) -> None:
        while True:
            try:
                run.stop()
                tools.data_store.get("a")
            except Exception:
                steps.append("swallowed")
            finally:
                steps.append("finally")

    run = Started(coroutine if is_async else function)
    assert await run.outcome() == Outcome("stopped")
    assert steps == ["finally"]


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_except_base_exception_delays_the_stop_to_the_next_guard(is_async: bool) -> None:
    swallowed: list[str] = []

    async def coroutine(tools: Tools) -> str:
        run.stop()
        for name in ("call_llm", "get"):
            try:
                await (tools.call_llm(MESSAGES) if name == "call_llm" else tools.data_store.get(""))
            except BaseException as error:
                swallowed.append(type(error).__name__)
        try:
            await tools.data_store.get("a")
        except BaseException as error:
            swallowed.append(type(error).__name__)
        return "as if nothing had happened"

    def function(tools: SyncTools) -> str:
        run.stop()
        for _ in range(2):
            try:
                tools.data_store.get("a")
            except BaseException as error:
                swallowed.append(type(error).__name__)
        return "as if nothing had happened"

    run = Started(coroutine if is_async else function)
    outcome = await run.outcome()
    assert outcome == Outcome("stopped", partial_result="as if nothing had happened")
    assert swallowed.count("AgentStopped") == 2
    assert run.events("data_store") == run.events("llm_call") == []


async def test_what_is_returned_after_the_stop_was_met_is_the_partial_result() -> None:
    async def work(tools: Tools) -> Any:
        run.stop()
        return {"parts": [1, 2], "stopped": should_stop(), "odd": float("inf")}

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    assert outcome.partial_result == {"parts": [1, 2], "stopped": True, "odd": "Infinity"}
    assert outcome.result is None
    assert outcome.error is None


async def test_an_exception_from_cleaning_up_is_kept_beside_the_stop() -> None:
    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.data_store.get("a")
        finally:
            raise OSError("disk full")

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    assert outcome.cleanup_error == {
        "code": "unhandled_exception",
        "type": "OSError",
        "message": "disk full",
    }
    assert run.only("error")["message"] == "disk full"


async def test_a_computing_loop_ends_at_its_check() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        while True:
            check_should_stop()

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")
    assert run.only("stop_observed")["tool"] == "check_should_stop"


async def test_agent_stopped_raised_by_the_agent_during_a_stop_counts_as_having_met_it() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        raise AgentStopped

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")
    assert run.token.observed_at is not None


@pytest.mark.parametrize(
    ("raised", "cleanup_error"),
    [
        ([AgentStopped(), AgentStopped()], None),
        ([BaseExceptionGroup("inner", [AgentStopped()]), AgentStopped()], None),
        ([AgentStopped(), asyncio.CancelledError()], None),
        ([AgentStopped(), ValueError("bad")], "ValueError"),
        ([ExceptionGroup("inner", [ValueError("bad")]), AgentStopped()], "ValueError"),
        ([ValueError("bad"), KeyError("worse")], "ExceptionGroup"),
    ],
)
async def test_groups_are_unwrapped(raised: list[BaseException], cleanup_error: str | None) -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        should_stop()
        raise BaseExceptionGroup("branches", raised)

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    found = outcome.cleanup_error and outcome.cleanup_error["type"]
    assert found == cleanup_error
