"""Agents that the tests of started runs share."""

from __future__ import annotations

import asyncio

import pytest

from agents import Tools, agent
from tests.support.running import Gate


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def agents(gate: Gate) -> None:
    @agent("double")
    async def double(tools: Tools, n: int) -> int:
        return n * 2

    @agent("endless")
    async def endless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("gated")
    async def gated(tools: Tools) -> str:
        tools.log("at work")
        await gate.wait()
        await tools.data_store.get("x")
        return "continued"
