"""Requests that agents make with clients of their own: guarded, or counted."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Callable, Iterator

import httpx
import pytest

from agents import SyncTools, Tools, agent, guard_everything, guarded_transport
from runs.models import RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.journal import Journal
from tests.support.llm_server import LLMServer
from tests.support.running import Start


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server


@pytest.fixture
def asking() -> None:
    @agent("asking")
    async def asking(tools: Tools, url: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).status_code


@pytest.mark.parametrize("is_on", [True, False])
def test_the_setting_guards_plain_clients(
    options: Callable[..., None],
    hire: Callable[..., Worker],
    start: Start,
    log: Journal,
    server: LLMServer,
    asking: None,
    is_on: bool,
) -> None:
    options(GUARD_EVERYTHING=is_on)
    hire()
    run = start("asking", url=server.url)
    record = log.over(run)
    guard_everything()()
    assert (record.status, record.result) == (Status.SUCCESS, 200)
    assert [event.data["label"] for event in log.of(run, "http")] == is_on * ["GET 127.0.0.1"]
    assert record.unwatched_connections == (0 if is_on else 1)


def test_connections_that_no_guard_saw_are_counted(
    hire: Callable[..., Worker], start: Start, log: Journal, server: LLMServer
) -> None:
    hire()

    @agent("by-asyncio")
    async def by_asyncio(tools: Tools, port: int) -> None:
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()

    @agent("by-socket")
    def by_socket(tools: SyncTools, port: int) -> None:
        socket.create_connection(("127.0.0.1", port)).close()

    @agent("by-a-thread")
    async def by_a_thread(tools: Tools, port: int) -> None:
        await asyncio.to_thread(by_urllib, port)

    def by_urllib(port: int) -> None:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()

    @agent("by-datagrams")
    def by_datagrams(tools: SyncTools, port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.connect(("127.0.0.1", port))

    counts = {}
    for name in ("by-asyncio", "by-socket", "by-a-thread", "by-datagrams"):
        record = log.over(start(name, port=server.port))
        assert record.status == Status.SUCCESS, record.error
        counts[name] = record.unwatched_connections
    assert counts == {"by-asyncio": 2, "by-socket": 1, "by-a-thread": 1, "by-datagrams": 0}


def test_connections_of_tools_and_of_the_database_are_not_counted(
    options: Callable[..., None],
    hire: Callable[..., Worker],
    start: Start,
    log: Journal,
    server: LLMServer,
) -> None:
    options(
        LLM={"BASE_URL": server.base_url, "API_KEY": "a-key-of-the-tests", "MODEL": "m"},
        HTTP={"ALLOW": ["127.0.0.1"]},
    )
    hire()

    @agent("child")
    async def child(tools: Tools) -> None: ...

    @agent("careful")
    async def careful(tools: Tools, url: str) -> int:
        await tools.http.get(url)
        async with httpx.AsyncClient(
            transport=guarded_transport(httpx.AsyncHTTPTransport())
        ) as client:
            await client.get(url)
        await tools.call_llm([{"role": "user", "content": "Hello."}])
        await tools.data_store.set("x", 1)
        await tools.agents.call("child", {})
        await (await tools.agents.start("child", {}))
        await tools.process(["true"])
        return await RunRecord.objects.acount()

    @agent("careful-def")
    def careful_def(tools: SyncTools, url: str) -> int:
        tools.http.get(url)
        with httpx.Client(transport=guarded_transport(httpx.HTTPTransport())) as client:
            client.get(url)
        tools.call_llm([{"role": "user", "content": "Hello."}])
        tools.data_store.set("x", 1)
        tools.agents.call("child", {})
        return RunRecord.objects.count()

    for name in ("careful", "careful-def"):
        record = log.over(start(name, url=server.url))
        assert record.status == Status.SUCCESS, record.error
        assert record.unwatched_connections == 0, name
        assert record.llm_calls == 1
