"""Plain clients of httpx and httpx2, in code of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agents import AgentStopped, guard_everything, guarded_transport
from agents.tools.http.client import Transports, close_clients, open_client
from agents.tools.llm.client import Model, call_llm
from agents.trace import Usage
from tests.support.agent_run import AgentRun, within
from tests.support.http_clients import ASK, LIBRARIES, LOOPBACK
from tests.support.llm_server import TEXT
from tests.support.traffic_server import TrafficServer

CHAT: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "Where?"}]}
PATH = "/v1/chat/completions"


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_a_request_is_a_call(server: TrafficServer, run: AgentRun, library: Any) -> None:
    async def agent() -> None:
        async with library.AsyncClient() as client:
            await client.get(server.url)
            run.stop()
            await client.get(server.url)

    with pytest.raises(AgentStopped):
        await within(5, run.task(agent()))
    assert server.request_count == 1
    event = run.only("http")
    assert (event["label"], event["status"]) == ("GET 127.0.0.1", 200)


def test_a_request_of_a_thread_is_a_call(
    server: TrafficServer, run: AgentRun, library: Any
) -> None:
    def agent() -> None:
        with library.Client() as client:
            client.get(server.url)
            run.stop()
            client.get(server.url)

    with pytest.raises(AgentStopped):
        run.call(agent)
    assert server.request_count == 1
    assert run.only("http")["status"] == 200


async def test_an_abort_cuts_it(server: TrafficServer, run: AgentRun, library: Any) -> None:
    def in_thread() -> None:
        with library.Client(timeout=20) as client:
            client.post(server.url + PATH, json=CHAT)

    async def on_loop() -> None:
        async with library.AsyncClient(timeout=20) as client:
            await client.post(server.url + PATH, json=CHAT)

    server.hold()
    in_a_thread = asyncio.to_thread(run.call, in_thread)
    working = asyncio.gather(run.task(on_loop()), in_a_thread, return_exceptions=True)
    await server.until_requests(2)
    run.stop("abort")
    errors = await within(5, working)
    assert [type(error) for error in errors] == [AgentStopped, AgentStopped]
    assert [event["outcome"] for event in run.events("llm_call")] == ["aborted", "aborted"]
    assert run.trace.usage == Usage(2, 4, 0, estimated=True)


async def test_a_model_is_counted_and_shown(
    server: TrafficServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        async with library.AsyncClient() as client:
            await client.post(server.url + PATH, json=CHAT)

    await within(5, run.task(agent()))
    assert run.only("llm_call")["text"] == run.shown == TEXT
    assert run.trace.usage == Usage(1, 21, 13)


async def test_a_guarded_transport_is_not_guarded_twice(
    server: TrafficServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        transport = guarded_transport(library.AsyncHTTPTransport())
        async with library.AsyncClient(transport=transport) as client:
            await client.post(server.url + PATH, json=CHAT)

    await within(5, run.task(agent()))
    assert run.only("llm_call")
    assert run.events("http") == []


async def test_tools_are_not_guarded_twice(server: TrafficServer, run: AgentRun) -> None:
    async def agent() -> None:
        await open_client(run.guard, transports).get(server.url)
        await call_llm(run.guard, model, ASK, model_name="m")

    model, transports = Model(server.base_url, "a-key-of-the-tests"), Transports(LOOPBACK)
    await within(5, run.task(agent()))
    await close_clients(run.guard)
    await transports.aclose()
    await model.aclose()
    assert run.only("http")
    assert run.only("llm_call")
    assert run.trace.usage == Usage(1, 21, 13)


async def test_a_stop_lets_a_call_to_the_model_finish(server: TrafficServer, run: AgentRun) -> None:
    model = Model(server.base_url, "a-key-of-the-tests")
    server.hold()
    calling = run.task(call_llm(run.guard, model, ASK, model_name="m"))
    await server.until_requests(1)
    run.stop()
    server.release()
    reply = await within(5, calling)
    await model.aclose()
    assert reply.text == TEXT


@asynccontextmanager
async def recording(library: Any) -> AsyncIterator[Any]:
    """Give a client, and note the requests' headers that reach httpx's own transport."""
    seen: list[Any] = []

    class Transport(library.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            seen.append(request)
            return await super().handle_async_request(request)

    async with library.AsyncClient(transport=Transport()) as client:
        client.seen = seen
        yield client


async def test_outside_a_run_nothing_changes(server: TrafficServer, library: Any) -> None:
    async with recording(library) as client:
        response = await client.get(server.url, headers={"Accept-Encoding": "br"})
        assert response.text == "hello"
        assert client.seen[0].headers["Accept-Encoding"] == "br"
        assert "trace" not in client.seen[0].extensions


def test_a_repeat_does_nothing_and_undo_undoes() -> None:
    guarded = httpx.HTTPTransport.handle_request
    undo = guard_everything()
    assert httpx.HTTPTransport.handle_request is guarded
    undo()
    assert httpx.HTTPTransport.handle_request is not guarded
    plain = httpx.HTTPTransport.handle_request
    again = guard_everything()
    assert httpx.HTTPTransport.handle_request is not plain
    again()
    assert httpx.HTTPTransport.handle_request is plain
