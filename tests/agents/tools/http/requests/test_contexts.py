"""Lost contexts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from agents.exceptions import AgentStopped, RunIsOver
from agents.tools.http import bodies
from agents.tools.http.client import (
    Transports,
    close_clients,
    open_client,
    open_sync_client,
)
from tests.support.agent_run import AgentRun, turn_loop, waiter, within
from tests.support.http_clients import LOOPBACK, async_client, sync_client
from tests.support.llm_server import LLMServer


def in_bare_thread(work: Any) -> Any:
    result: list[Any] = []

    def main() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join(10)
    return result[0]


async def test_the_tools_client_is_guarded_where_the_context_is_lost(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports(LOOPBACK)
    client = open_client(run.guard, transports)
    assert (await client.get(server.url)).text == "hello"  # this task is outside of any run
    threads_client = open_sync_client(run.guard, transports, waiter())
    answer = await asyncio.to_thread(in_bare_thread, lambda: threads_client.get(server.url))
    assert answer.text == "hello"
    assert len(run.events("http")) == 2
    run.stop()
    with pytest.raises(AgentStopped):
        await client.get(server.url)
    refused = await asyncio.to_thread(in_bare_thread, lambda: threads_client.get(server.url))
    assert isinstance(refused, AgentStopped)
    assert server.request_count == 2
    await close_clients(run.guard)
    await transports.aclose()


async def test_a_wrapper_made_in_a_run_is_that_runs_where_the_context_is_lost(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    client = run.call(sync_client, library)
    run.stop()
    refused = await asyncio.to_thread(in_bare_thread, lambda: client.get(server.url))
    assert isinstance(refused, AgentStopped)
    client.close()


async def test_the_run_that_makes_a_request_counts_not_the_one_that_made_the_wrapper(
    server: LLMServer, run: AgentRun
) -> None:
    other = AgentRun()
    client = run.call(async_client, httpx)
    run.stop()
    assert (await other.task(client.get(server.url))).text == "hello"
    assert run.events("http") == []
    assert len(other.events("http")) == 1
    await client.aclose()


async def settle(run: AgentRun) -> None:
    settling = asyncio.create_task(run.guard.settle())
    await turn_loop()
    assert not settling.done()
    await close_clients(run.guard)
    await within(2, settling)


@pytest.mark.parametrize("own", [True, False])
async def test_a_response_left_open_does_not_keep_the_run_from_ending(
    server: LLMServer, run: AgentRun, own: bool
) -> None:
    transports = Transports(LOOPBACK)
    client = async_client(httpx) if own else open_client(run.guard, transports)

    async def agent() -> None:
        request = client.build_request("GET", f"{server.url}/events")
        left.append(await client.send(request, stream=True))

    left: list[Any] = []
    await run.task(agent())
    await settle(run)
    assert run.only("http")["outcome"] == "ok"
    with pytest.raises((RunIsOver, httpx.StreamClosed)):
        await left[0].aread()
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    await close_clients(run.guard)
    await client.aclose()
    await transports.aclose()


async def test_a_thread_s_response_left_open_does_not_either(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports(LOOPBACK)

    wait = waiter()

    def agent() -> None:
        client = open_sync_client(run.guard, transports, wait)
        client.send(client.build_request("GET", f"{server.url}/events"), stream=True)

    await asyncio.to_thread(run.call, agent)
    await settle(run)
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    await transports.aclose()


async def test_a_reader_that_the_agent_left_behind_is_ended(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    client = async_client(library)
    started = asyncio.Event()

    async def reader() -> None:
        async with client.stream("GET", f"{server.url}/chunks/3") as response:
            async for _ in response.aiter_bytes():
                started.set()

    server.hold("middle")
    task = run.task(reader())
    await within(5, started.wait())
    await settle(run)
    with pytest.raises((asyncio.CancelledError, RunIsOver)):
        await within(2, task)
    assert run.only("http")["outcome"] == "aborted"
    await client.aclose()


async def test_a_thread_that_reads_on_after_the_end_is_refused(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports(LOOPBACK)
    started = threading.Event()

    wait = waiter()

    def agent() -> None:
        client = open_sync_client(run.guard, transports, wait)
        with client.stream("GET", f"{server.url}/events") as response:
            for _ in response.iter_bytes():
                started.set()

    task = asyncio.create_task(asyncio.to_thread(run.call, agent))
    await asyncio.to_thread(started.wait, 5)
    await settle(run)
    with pytest.raises((RunIsOver, asyncio.CancelledError)):
        await within(5, task)
    await transports.aclose()


async def test_nothing_is_remembered_of_a_run_that_is_over(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports(LOOPBACK)
    client = open_client(run.guard, transports)
    await run.task(client.get(server.url))
    await close_clients(run.guard)
    await close_clients(run.guard)
    own = async_client(httpx)
    await run.task(own.get(server.url))
    assert bodies._opened == {}
    await own.aclose()
    await transports.aclose()
