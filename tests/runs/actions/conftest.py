"""Agents and cleanup for the tests of the actions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agents import Tools, agent
from runs.delivery import local_runs


@pytest.fixture
def echo() -> None:
    @agent("echo", on_worker_loss="requeue", max_attempts=5)
    async def echo(tools: Tools, text: str = "", n: int = 0) -> str:
        return text


@pytest.fixture
def endless() -> None:
    @agent("endless")
    async def endless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)


@pytest.fixture
def forget_local_runs() -> Any:
    """Remove the test's runs from the local runs of this process."""
    yield
    local_runs._runs.clear()
