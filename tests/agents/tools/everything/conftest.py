"""Fixtures of the tests in this folder: plain clients, and no argument that guards them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents import guard_everything
from tests.support.agent_run import AgentRun
from tests.support.traffic_server import TrafficServer


@pytest.fixture
def server() -> Iterator[TrafficServer]:
    with TrafficServer() as server:
        yield server
        server.release()


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture(autouse=True)
def everything_is_guarded() -> Iterator[None]:
    undo = guard_everything()
    yield
    undo()
