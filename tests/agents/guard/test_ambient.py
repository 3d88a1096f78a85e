"""The ambient guard."""

from __future__ import annotations

import asyncio
from typing import Any

from agents.guard import Guard, current_call, current_guard
from tests.support.agent_run import AgentRun
from tests.support.guarded_calls import complaints_of_the_collector


async def test_the_guard_is_bound_in_the_run_and_nowhere_else(run: AgentRun) -> None:
    async def look() -> Guard | None:
        return current_guard()

    assert current_guard() is None
    assert await run.task(look()) is run.guard
    assert run.call(current_guard) is run.guard
    other = AgentRun(parent=run)
    assert await other.task(look()) is other.guard


async def test_a_called_agent_is_not_part_of_its_callers_call(run: AgentRun) -> None:
    calls: list[Any] = []

    def call() -> None:
        with run.guard.call("agents.call"):
            child = AgentRun(parent=run)
            child.call(lambda: calls.append(current_call()))

    run.call(call)
    assert calls == [None]


async def test_the_collector_is_heard_when_it_complains() -> None:
    """Or else the tests above that rely on it can't fail."""

    async def forget() -> None:
        async def fail() -> None:
            raise ValueError("nobody sees this")

        task = asyncio.create_task(fail())
        await asyncio.wait([task])

    complaints = await complaints_of_the_collector(forget)
    assert [str(context["exception"]) for context in complaints] == ["nobody sees this"]
