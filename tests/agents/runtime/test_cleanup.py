"""What an agent may still do while it cleans up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars

import pytest

from agents import AgentStopped, SyncTools, Tools, cleanup, should_stop
from agents.runtime import Outcome
from agents.testing import ScriptedModel
from tests.support.started_run import MESSAGES, SlowStore, Started, turns


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_saving_works_within_cleanup_and_is_refused_outside(is_async: bool) -> None:
    refused: list[str] = []

    async def coroutine(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            try:
                await tools.data_store.set("outside", 1)
            except AgentStopped:
                refused.append("outside")
            async with cleanup():
                assert should_stop()
                await tools.data_store.set("inside", 1)
                try:
                    await tools.agents.call("other")
                except AgentStopped:
                    refused.append("agents.call")

    def function(tools: SyncTools) -> None:
        try:
            run.stop()
            tools.call_llm(MESSAGES)
        finally:
            try:
                tools.data_store.set("outside", 1)
            except AgentStopped:
                refused.append("outside")
            with cleanup():
                assert should_stop()
                tools.data_store.set("inside", 1)
                try:
                    tools.agents.call("other")
                except AgentStopped:
                    refused.append("agents.call")

    run = Started(coroutine if is_async else function)
    assert await run.outcome() == Outcome("stopped")
    assert run.store.entries == {"default": {"inside": 1}}
    assert refused == ["outside", "agents.call"]
    assert run.only("data_store")["cleanup"] is True
    assert run.guard.calls_started_after_acknowledgement == 0


async def test_saving_that_takes_too_long_is_cut_at_the_limit_and_the_run_is_stopped() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            async with cleanup(seconds=0.02):
                await tools.data_store.set("a", 1)

    run = Started(work, store=store)
    assert await run.outcome() == Outcome("stopped")
    assert run.only("data_store")["outcome"] == "aborted"
    assert store.entries == {}


async def test_an_error_within_cleanup_is_the_cleanup_error() -> None:
    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            async with cleanup():
                await tools.data_store.set("", 1)

    run = Started(work)
    outcome = await run.outcome()
    assert outcome.kind == "stopped"
    assert outcome.cleanup_error is not None
    assert outcome.cleanup_error["code"] == "invalid_entry"


async def test_closing_a_client_in_finally_happens_before_the_end() -> None:
    steps: list[str] = []

    class Client:
        async def aclose(self) -> None:
            await turns()
            steps.append("closed")

    async def work(tools: Tools) -> None:
        try:
            run.stop()
            await tools.call_llm(MESSAGES)
        finally:
            await Client().aclose()

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")
    assert steps == ["closed"]


async def test_a_called_agent_is_not_let_through_by_its_callers_cleanup() -> None:
    async def work(tools: Tools) -> None:
        run.stop()
        await tools.data_store.get("a")

    async with cleanup():
        run = Started(work, context=contextvars.copy_context())
        assert await run.outcome() == Outcome("stopped")
    assert run.events("data_store") == []


async def test_twenty_cleanups_in_a_row_make_no_more_calls_than_one() -> None:
    """The model's own count, as its provider would bill it."""

    async def slowly(messages: object) -> str:
        await asyncio.sleep(0.02)
        return "a reply"

    model = ScriptedModel(slowly)

    async def work(tools: Tools) -> None:
        run.stop()
        for _ in range(20):
            with contextlib.suppress(AgentStopped):
                async with cleanup(0.05):
                    await tools.call_llm(MESSAGES)

    run = Started(work, model=model)
    assert await run.outcome() == Outcome("stopped")
    assert 1 <= len(model.calls) <= 3
