"""Limits of an agent that is tested without a host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from agents import CallTimedOut, SyncTools, Tools, agent, registry, should_stop
from agents.testing import ScriptedModel, running
from tests.support.started_run import MESSAGES

SHORT = 0.1


@pytest.fixture(autouse=True)
def isolated_agents() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


async def test_a_deadline_stops_it_and_is_told() -> None:
    seen: list[float | None] = []

    @agent("endless", deadline_seconds=SHORT)
    async def endless(tools: Tools) -> None:
        while True:
            seen.append(tools.remaining().seconds)
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    async with running(endless) as run:
        result = await run.result()
    assert result.status == "stopped"
    assert all(left is not None and 0 <= left <= SHORT for left in seen)
    assert seen == sorted(seen, reverse=True)  # type: ignore[type-var]


async def test_without_limits_nothing_is_left_to_say() -> None:
    @agent("free")
    def free(tools: SyncTools) -> list[float | None]:
        left = tools.remaining()
        return [left.seconds, left.tokens, left.cost, left.calls]

    async with running(free) as run:
        assert (await run.result()).result == [None] * 4


async def test_a_called_agent_has_its_callers_deadline() -> None:
    @agent("caller", deadline_seconds=60)
    async def caller(tools: Tools) -> float:
        return float(await tools.agents.call("below"))

    @agent("below", deadline_seconds=3600)
    async def below(tools: Tools) -> float | None:
        return tools.remaining().seconds

    async with running(caller) as run:
        assert 50 < (await run.result()).result <= 60


async def test_a_silent_one_is_stopped_and_a_living_one_is_not() -> None:
    @agent("silent", idle_seconds=SHORT)
    async def silent(tools: Tools, lives: bool) -> str:
        end = time.monotonic() + 3 * SHORT
        while not should_stop() and time.monotonic() < end:
            await asyncio.sleep(0.01)
            if lives:
                tools.progress(1, 2)
        return "over"

    async with running(silent, {"lives": True}) as run:
        assert (await run.result()).status == "success"
    async with running(silent, {"lives": False}) as run:
        result = await run.result()
    assert (result.status, result.partial_result) == ("stopped", "over")


async def test_a_call_that_takes_too_long_is_cut() -> None:
    async def never(messages: object) -> str:
        await asyncio.sleep(60)
        return "?"

    @agent("patient", call_seconds=SHORT)
    async def patient(tools: Tools) -> str:
        try:
            await tools.call_llm(MESSAGES)
        except CallTimedOut:
            return "cut"
        return "?"

    async with running(patient, model=ScriptedModel(never)) as run:
        assert (await run.result()).result == "cut"
