"""What all tests of the runtime need: agents of their own, and the loop as a host makes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from agents import registry
from agents.process.loop import AgentLoop
from agents.runtime import task_factory
from tests.support.started_run import SlowStore


def pytest_asyncio_loop_factories() -> dict[str, Any]:
    return {"agents": AgentLoop}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture(autouse=True)
async def _agent_loop() -> AsyncIterator[None]:
    asyncio.get_running_loop().set_task_factory(task_factory)  # type: ignore[arg-type]
    yield
    while SlowStore.made:
        SlowStore.made.pop().may_write.set()  # or a test that fails would wait for ever
