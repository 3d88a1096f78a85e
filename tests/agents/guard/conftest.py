"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.agent_run import AgentRun
from tests.support.guarded_calls import Backend


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = Backend()
    yield backend
    backend.may_end.set()  # or a test that fails would wait for ever
