"""Fixtures of the tests in this folder: clients of the agents' own that ask a model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import pytest

from tests.support.agent_run import AgentRun, within
from tests.support.http_clients import LIBRARIES, async_client, sync_client
from tests.support.traffic_server import TrafficServer

#: Asks in the run, and returns the answer's bytes: ``await ask("/v1/messages", {...})``.
Ask: TypeAlias = Callable[[str, Any], Awaitable[bytes]]

WAYS = [(library, place) for library in LIBRARIES for place in ("loop", "thread")]


@pytest.fixture
def server() -> Iterator[TrafficServer]:
    with TrafficServer() as server:
        yield server
        server.release()


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0].__name__}-{way[1]}")
def ask(request: pytest.FixtureRequest, run: AgentRun, server: TrafficServer) -> Ask:
    library, place = request.param

    async def on_loop(path: str, body: Any) -> bytes:
        async with (
            async_client(library) as client,
            client.stream("POST", server.url + path, json=body) as response,
        ):
            return b"".join([chunk async for chunk in response.aiter_bytes()])

    def in_thread(path: str, body: Any) -> bytes:
        with (
            sync_client(library) as client,
            client.stream("POST", server.url + path, json=body) as response,
        ):
            return b"".join(response.iter_bytes())

    async def ask(path: str, body: Any) -> bytes:
        if place == "loop":
            return await within(10, run.task(on_loop(path, body)))
        return await asyncio.to_thread(run.call, in_thread, path, body)

    return ask
