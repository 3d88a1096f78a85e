"""Connections that runs share, in pools of limited size."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

from agents.tools.http.pools import STREAMS_PER_POOL, Transports, shared_ssl_context
from agents.tools.waiting import undisturbed
from tests.support.agent_run import turn_loop, within
from tests.support.http_clients import LOOPBACK
from tests.support.llm_server import LLMServer


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server
        server.release()


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
async def test_pools_grow_when_all_are_busy_and_go_when_they_are_idle(
    server: LLMServer, library: Any
) -> None:
    transports = Transports(LOOPBACK)
    pools: Any = transports.http_async() if library is httpx else transports.httpx2_async()
    client = library.AsyncClient(transport=pools, timeout=10)
    count = STREAMS_PER_POOL + 5
    server.hold()
    requests = [asyncio.create_task(client.get(server.url)) for _ in range(count)]
    await server.until_requests(count)
    assert [pool.busy_count for pool in pools._pools] == [STREAMS_PER_POOL, 5]
    server.release()
    await within(10, asyncio.gather(*requests))
    assert [pool.busy_count for pool in pools._pools] == [0]
    await client.aclose()
    assert server.open_count > 0  # closing a client leaves the shared connections alone
    await transports.aclose()
    await server.until(lambda: server.open_count == 0, "all connections to be closed")


async def test_a_request_that_fails_gives_its_place_back() -> None:
    transports = Transports(LOOPBACK)
    pools: Any = transports.http_async()
    async with httpx.AsyncClient(transport=pools) as client:
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:9/")
    assert [pool.busy_count for pool in pools._pools] == [0]
    await transports.aclose()


def test_there_is_one_context_for_tls() -> None:
    assert shared_ssl_context() is shared_ssl_context()


async def test_what_is_undisturbed_is_done_before_a_cancellation_is_passed_on() -> None:
    done: list[str] = []
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.append("done")

    task = asyncio.create_task(undisturbed(work()))
    for _ in range(3):
        await turn_loop()
        task.cancel()
    await turn_loop()
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await within(2, task)
    assert done == ["done"]


async def test_what_is_undisturbed_has_an_end_nevertheless() -> None:
    with pytest.raises(TimeoutError):
        await within(2, undisturbed(asyncio.Event().wait(), seconds=0.01))


async def test_an_error_of_what_is_undisturbed_is_passed_on() -> None:
    async def work() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError):
        await undisturbed(work())
