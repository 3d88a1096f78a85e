"""Agents that call agents: how a stop goes down, and what comes up."""

from __future__ import annotations

import asyncio
from typing import Any

from agents import SubAgentFailed, SubAgentStopped, Tools, agent
from agents.testing import ScriptedModel, running
from tests.support.started_run import MESSAGES, turns


async def test_a_stop_of_the_root_reaches_every_branch_and_they_end_before_it() -> None:
    ends: list[str] = []

    @agent("leaf")
    async def leaf(tools: Tools, name: str) -> None:
        try:
            await tools.call_llm(MESSAGES)
            await tools.call_llm(MESSAGES)
        finally:
            ends.append(name)

    @agent("middle")
    async def middle(tools: Tools, name: str, grouped: bool) -> None:
        try:
            calls = [tools.agents.call("leaf", {"name": f"{name}.{n}"}) for n in range(2)]
            if grouped:
                async with asyncio.TaskGroup() as group:
                    for call in calls:
                        group.create_task(call)
            else:
                await asyncio.gather(*calls)
        finally:
            ends.append(name)

    @agent("root")
    async def root(tools: Tools) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for n, grouped in enumerate([True, False]):
                    input_ = {"name": f"{n}", "grouped": grouped}
                    group.create_task(tools.agents.call("middle", input_))
        finally:
            ends.append("root")

    may_answer = asyncio.Event()

    async def answer(messages: Any) -> str:
        await may_answer.wait()
        return "an answer"

    async with running("root", model=ScriptedModel(answer)) as run:
        middles = [await run.child("middle", n) for n in (1, 2)]
        leaves = [await each.child("leaf", n) for each in middles for n in (1, 2)]
        for each in leaves:
            await each.until_in_flight("call_llm")
        run.stop(reason="enough")
        await turns(20)
        assert ends == []
        may_answer.set()
        assert (await run.result()).status == "stopped"
        for each in [*middles, *leaves]:
            result = await each.result()
            assert result.status == "stopped"
            assert result.calls_started_after_stop == 0
        for each in leaves:
            assert [e.data["outcome"] for e in each._of("llm_call")] == ["ok"]
    assert ends[-1] == "root"
    for n in "01":
        assert max(ends.index(f"{n}.0"), ends.index(f"{n}.1")) < ends.index(n)


async def test_a_child_that_was_stopped_alone_leaves_its_caller_alone() -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0)

    @agent("caller")
    async def caller(tools: Tools) -> str:
        try:
            await tools.agents.call("child")
        except SubAgentStopped as error:
            await tools.data_store.set("a", error.agent)
            return "went on"
        raise AssertionError

    async with running("caller") as run:
        (await run.child()).stop()
        result = await run.result()
    assert (result.status, result.result) == ("success", "went on")
    assert run._of("stop_observed") == []


async def test_a_childs_error_reaches_its_caller_as_one_of_ours() -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        raise KeyError("lost")

    @agent("caller")
    async def caller(tools: Tools) -> dict[str, Any]:
        try:
            await tools.agents.call("child")
        except SubAgentFailed as error:
            return {"agent": error.agent, **error.error}
        raise AssertionError

    async with running("caller") as run:
        result = await run.result()
    assert result.result == {
        "agent": "child",
        "code": "unhandled_exception",
        "type": "KeyError",
        "message": "'lost'",
    }


async def test_a_child_that_its_caller_left_behind_has_ended_before_its_caller() -> None:
    order: list[str] = []

    @agent("child")
    async def child(tools: Tools) -> None:
        try:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0)
        finally:
            await turns()
            order.append("child")

    @agent("caller")
    async def caller(tools: Tools) -> None:
        tasks.append(asyncio.create_task(tools.agents.call("child")))
        while not run.children:
            await asyncio.sleep(0)

    tasks: list[asyncio.Task[Any]] = []
    async with running("caller") as run:
        await run.result()
        order.append("caller")
        assert (await run.children[0].result()).status == "stopped"
    assert order == ["child", "caller"]
