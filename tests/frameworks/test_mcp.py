"""A stop meets client sessions of MCP, over streamable HTTP.

A session's requests are made by tasks of a task group, which ends with a group of ``AgentStopped``.
So the agent's frame catches it with ``except*``, around the session. Sessions of the protocol
before 2026 ("legacy") hold a GET open, by which the server may speak; it has no end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic_ai.mcp import MCPToolset

from agents import AgentStopped, Tools, agent, guarded_transport, registry
from agents.testing import running

from .mcp_server import ToolServer
from .model_server import ModelServer
from .rows.pydantic_ai import open_agent
from .test_matrix import MODES, REASON, assert_no_complaints

ERAS = ["legacy", "auto"]
SECONDS = 8.0  # the server sends something at least every 15 s, and a stop must not wait for that


@pytest.fixture
def things() -> Iterator[ToolServer]:
    with ToolServer() as server, registry.isolated(empty=True):
        yield server


@asynccontextmanager
async def guarded_http() -> AsyncIterator[httpx2.AsyncClient]:
    transport = guarded_transport(httpx2.AsyncHTTPTransport())
    timeout = httpx2.Timeout(30, read=300)  # as the SDK's own client has it
    async with httpx2.AsyncClient(transport=transport, timeout=timeout) as http:
        yield http


def make_agent(
    things: ToolServer, era: str, work: Callable[[Client, list[str], Tools], Awaitable[None]]
) -> Any:
    """Return an agent that does ``work(client, kept, tools)`` in a session, and keeps ``kept``."""

    async def under_test(tools: Tools) -> list[str]:
        kept: list[str] = []
        try:
            async with (
                guarded_http() as http,
                Client(streamable_http_client(things.url, http_client=http), mode=era) as client,
            ):
                await client.list_tools()  # else the first call asks for it, after its answer
                await work(client, kept, tools)
        except* AgentStopped:
            pass
        return kept

    return agent("under_test")(under_test)


async def use(client: Client, tool: str, kept: list[str]) -> None:
    answer = await client.call_tool(tool, {"what": f"thing {len(kept)}"})
    kept.append(answer.content[0].text)


async def assert_stopped(run: Any, caplog: Any) -> Any:
    result = await run.result()
    assert (result.status, result.error, result.cleanup_error) == ("stopped", None, None), run
    assert result.calls_started_after_stop == 0
    await assert_no_complaints(caplog)
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("era", ERAS)
async def test_stop_in_a_call_of_a_tool(
    things: ToolServer, caplog: Any, era: str, mode: str
) -> None:
    async def work(client: Client, kept: list[str], tools: Tools) -> None:
        await use(client, "look", kept)
        while True:
            await use(client, "wait", kept)

    async with running(make_agent(things, era, work), seconds=SECONDS) as run:
        await things.until("tools/call wait")
        run.stop(mode, REASON)
        if mode == "graceful":
            things.release()
        result = await assert_stopped(run, caplog)
    finished = ["thing 0 is fine", "thing 1 is fine"]
    assert result.partial_result == finished[: 2 if mode == "graceful" else 1]
    assert (things.count("tools/call look"), things.count("tools/call wait")) == (1, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("era", ERAS)
async def test_stop_between_two_calls(things: ToolServer, caplog: Any, era: str, mode: str) -> None:
    stopped = asyncio.Event()

    async def work(client: Client, kept: list[str], tools: Tools) -> None:
        await use(client, "look", kept)
        if era == "legacy":
            await things.until("GET")
        tools.progress(1, 2)
        await stopped.wait()
        await use(client, "look", kept)

    async with running(make_agent(things, era, work), seconds=SECONDS) as run:
        await run.until("progress")
        run.stop(mode, REASON)
        stopped.set()
        result = await assert_stopped(run, caplog)
    assert result.partial_result == ["thing 0 is fine"]
    assert things.count("tools/call look") == 1


@pytest.mark.parametrize("mode", MODES)
async def test_stop_of_an_agent_that_waits_for_the_server_to_speak(
    things: ToolServer, caplog: Any, mode: str
) -> None:
    async def work(client: Client, kept: list[str], tools: Tools) -> None:
        await use(client, "look", kept)
        await things.until("GET")
        tools.progress(1, 2)
        await asyncio.Event().wait()

    async with running(make_agent(things, "legacy", work), seconds=SECONDS) as run:
        await run.until("progress")
        run.stop(mode, REASON)
        result = await assert_stopped(run, caplog)
    assert result.partial_result == ["thing 0 is fine"]


@pytest.mark.parametrize("mode", MODES)
async def test_stop_in_a_tool_that_pydantic_ai_calls(
    things: ToolServer, server: ModelServer, caplog: Any, mode: str
) -> None:
    async def under_test(tools: Tools) -> str:
        async def unused(what: str) -> str:
            raise AssertionError

        try:
            async with open_agent(unused) as chat, guarded_http() as http:
                mine = type(chat)(chat.model, toolsets=[MCPToolset(things.url, http_client=http)])
                await mine.run("Look at things.")
        except* AgentStopped:
            pass
        return "what it has"

    server.hold()
    async with running(agent("under_test")(under_test), seconds=SECONDS) as run:
        await server.until_requests(1)
        server.let_go()
        await server.until_requests(2)
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, caplog)
    assert result.partial_result == "what it has"
    assert server.request_count == 2
    assert things.count("tools/call look") == 1
