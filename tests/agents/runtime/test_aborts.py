"""What an abort does to an agent's code: between its calls, and around its children."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents import AgentStopped, SyncTools, Tools, agent, cleanup, registry
from agents.guard import guard
from agents.testing import running


@pytest.fixture(autouse=True)
def own_registry() -> Any:
    with registry.isolated():
        yield


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "COMPUTING_SECONDS", 0.05)


async def test_code_between_two_calls_is_cancelled_and_tidies_up() -> None:
    tidied: list[str] = []

    @agent("computing")
    async def computing(tools: Tools) -> str:
        tools.log("at work")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            async with cleanup():
                await tools.data_store.set("saved", 1)
            tidied.append("once")
            return "half"
        return "whole"

    async with running(computing) as run:
        await run.until("log")
        run.stop("abort")
        result = await run.result()
    assert (result.status, result.partial_result, tidied) == ("stopped", "half", ["once"])
    assert result.calls_started_after_stop == 0


async def test_its_branches_are_too_but_none_that_saves() -> None:
    saved: list[str] = []

    @agent("branches")
    async def branches(tools: Tools) -> None:
        async def saving() -> None:
            async with cleanup():
                tools.log("saves")
                await asyncio.sleep(0.3)  # goes on after the others are cancelled
                saved.append("saved")

        async def computing() -> None:
            await asyncio.sleep(3600)

        await asyncio.gather(saving(), computing(), return_exceptions=True)

    async with running(branches) as run:
        await run.until("log")
        run.stop("abort")
        result = await run.result()
    assert (result.status, saved) == ("stopped", ["saved"])


async def test_code_that_has_observed_the_stop_is_left_alone() -> None:
    @agent("polite")
    async def polite(tools: Tools) -> str:
        tools.log("at work")
        try:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.001)
        except AgentStopped:
            await asyncio.sleep(0.3)  # tidies up
            return "tidied"

    async with running(polite) as run:
        await run.until("log")
        run.stop("abort")
        result = await run.result()
    assert (result.status, result.partial_result) == ("stopped", "tidied")


async def test_a_def_agent_that_computes_is_not_cut() -> None:
    may_end = threading.Event()

    @agent("blocking")
    def blocking(tools: SyncTools) -> str:
        tools.log("at work")
        may_end.wait(10)
        return "whole"

    async with running(blocking) as run:
        await run.until("log")
        run.stop("abort")
        await asyncio.sleep(0.2)
        assert not run._task.done()
        may_end.set()
        result = await run.result()
    assert result.status == "success"  # no guard met the stop


@pytest.mark.parametrize("kind", ["call", "start"])
async def test_a_caller_goes_at_once_and_ends_after_its_child(kind: str) -> None:
    order: list[str] = []
    may_end = threading.Event()

    @agent("child")
    def child(tools: SyncTools) -> None:
        tools.log("at work")
        may_end.wait(10)  # can't be cut
        order.append("child")

    @agent("caller")
    async def caller(tools: Tools) -> None:
        try:
            if kind == "call":
                await tools.agents.call("child")
            else:
                handle = await tools.agents.start("child")
                await handle.wait()
        finally:
            order.append("caller's code")

    async with running(caller) as run:
        below = await run.child()
        await below.until("log")
        await run.until_in_flight("agents.call" if kind == "call" else "agents.wait")
        run.stop("abort")
        while order != ["caller's code"]:
            await asyncio.sleep(0.001)
        assert not run._task.done()
        may_end.set()
        result = await run.result()
    assert order == ["caller's code", "child"]
    assert result.status == "stopped"
    calls = [event.data for event in result.events if event.type == "agent_call"]
    assert "aborted" in {call["outcome"] for call in calls}


async def test_a_def_agents_tools_are_cut_on_the_loop() -> None:
    """Its model call, its HTTP and its wait for another agent are all cut while it waits."""
    ended: list[type[BaseException]] = []

    @agent("endless")
    async def endless(tools: Tools) -> None:
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)

    @agent("blocking")
    def blocking(tools: SyncTools) -> None:
        try:
            tools.agents.call("endless")
        except BaseException as error:
            ended.append(type(error))
            raise

    async with running(blocking) as run:
        await run.child()
        run.stop("abort")
        result = await run.result()
    assert (result.status, ended) == ("stopped", [AgentStopped])
