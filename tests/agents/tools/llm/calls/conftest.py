"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from agents.tools.llm.client import Model
from agents.values import redaction
from tests.support.agent_run import AgentRun
from tests.support.llm_calls import KEY
from tests.support.llm_server import LLMServer


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server
        server.release()


@pytest.fixture
async def model(server: LLMServer) -> AsyncIterator[Model]:
    model = Model(server.base_url, KEY, "test-model")
    yield model
    await model.aclose()
    redaction.forget_secrets()


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()
