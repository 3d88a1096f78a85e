"""What a request is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from agents.tools.http.client import (
    Transports,
    close_clients,
    guarded_transport,
    open_client,
)
from tests.support.agent_run import AgentRun, turn_loop
from tests.support.http_clients import LIBRARIES, LOOPBACK, async_client, sync_client
from tests.support.llm_server import LLMServer


async def test_each_request_is_one_call_that_tells_no_secrets(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async with async_client(library) as client:
        url = f"{server.url}/a/path?token=hidden"
        answer = await run.task(client.get(url, headers={"X-Key": "hidden"}))
    assert answer.text == "hello"
    event = run.only("http")
    assert event.pop("duration_ms") > 0
    assert event.pop("started_at")
    assert event.pop("call")
    assert event == {
        "tool": "http",
        "label": "GET 127.0.0.1",
        "outcome": "ok",
        "method": "GET",
        "host": "127.0.0.1",
        "status": 200,
    }
    assert run.trace.in_flight() == []


async def test_a_thread_s_request_is_one_call_too(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    def agent() -> str:
        with sync_client(library) as client:
            return str(client.post(f"{server.url}/status/404", content=b"x").text)

    assert await asyncio.to_thread(run.call, agent) == "as you wished"
    event = run.only("http")
    assert (event["label"], event["status"], event["outcome"]) == ("POST 127.0.0.1", 404, "ok")


@pytest.mark.parametrize("is_public", [False, True])
def test_the_wrapper_is_of_the_same_kind_and_of_no_other(is_public: bool) -> None:
    """The anthropic SDK refuses what is a transport of httpx, whatever else it is."""
    kinds = [
        kind
        for library in LIBRARIES
        for kind in (library.AsyncBaseTransport, library.BaseTransport)
    ]

    def kinds_of(inner: Any) -> list[type]:
        transport: Any = guarded_transport(inner, public_only=is_public)
        assert guarded_transport(transport) is transport
        return [kind for kind in kinds if isinstance(transport, kind)]

    for library in LIBRARIES:
        assert kinds_of(library.AsyncHTTPTransport()) == [library.AsyncBaseTransport]
        assert kinds_of(library.HTTPTransport()) == [library.BaseTransport]
        both = [library.AsyncBaseTransport, library.BaseTransport]
        assert kinds_of(library.MockTransport(lambda request: None)) == both


@pytest.mark.parametrize("is_public", [False, True])
@pytest.mark.parametrize("thing", [None, httpx.AsyncClient, "x"])
def test_what_is_no_transport_is_refused(thing: Any, is_public: bool) -> None:
    with pytest.raises(TypeError, match="a transport of httpx or httpx2"):
        guarded_transport(thing, public_only=is_public)


async def test_a_fake_for_both_colours_is_guarded_in_both(run: AgentRun, library: Any) -> None:
    fake = library.MockTransport(lambda request: library.Response(200, text="fake"))
    async with library.AsyncClient(transport=guarded_transport(fake)) as client:
        assert (await run.task(client.get("http://x/"))).text == "fake"
    with library.Client(transport=guarded_transport(fake)) as client:
        assert run.call(client.get, "http://x/").text == "fake"
    assert len(run.events("http")) == 2


async def test_outside_any_run_nothing_is_guarded(server: LLMServer, library: Any) -> None:
    async with async_client(library) as client:
        assert (await client.get(server.url)).text == "hello"
    with sync_client(library) as client:
        assert (await asyncio.to_thread(client.get, server.url)).text == "hello"


async def test_each_redirect_is_a_call_of_its_own(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async with async_client(library) as client:
        url = f"{server.url}/redirect?to={server.url}/"
        answer = await run.task(client.get(url, follow_redirects=True))
    assert answer.text == "hello"
    assert [event["status"] for event in run.events("http")] == [302, 200]


async def test_a_request_that_fails_is_recorded_as_an_error(run: AgentRun, library: Any) -> None:
    async with async_client(library) as client:
        with pytest.raises(library.ConnectError):
            await run.task(client.get("http://127.0.0.1:9/"))
    with sync_client(library) as client, pytest.raises(library.ConnectError):
        run.call(client.get, "http://127.0.0.1:9/")
    for event in run.events("http"):
        assert (event["outcome"], event["error"]["type"]) == ("error", "ConnectError")
    assert len(run.events("http")) == 2
    assert run.trace.in_flight() == []


async def test_a_call_is_in_flight_until_its_response_is_closed(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        async with async_client(library) as client:
            async with client.stream("GET", f"{server.url}/chunks/3") as response:
                assert run.events("http") == []
                (info,) = run.trace.in_flight()
                assert (info["tool"], info["label"]) == ("http", "GET 127.0.0.1")
                async for _ in response.aiter_bytes():
                    assert len(run.trace.in_flight()) == 1
            assert run.trace.in_flight() == []

    await run.task(agent())
    assert run.only("http")["outcome"] == "ok"


async def test_a_body_may_be_read_in_part(server: LLMServer, run: AgentRun, library: Any) -> None:
    async def agent() -> None:
        async with (
            async_client(library) as client,
            client.stream("GET", f"{server.url}/events") as response,
        ):
            async for _ in response.aiter_bytes():
                break

    await run.task(agent())
    assert run.only("http")["outcome"] == "ok"
    await server.until(lambda: server.open_count == 0, "the connection to be closed")


async def test_a_reader_that_is_thrown_away_ends_the_call(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        async with async_client(library) as client:
            request = client.build_request("GET", f"{server.url}/events")
            chunks = (await client.send(request, stream=True)).stream.__aiter__()
            assert await anext(chunks)
            await chunks.aclose()
            await turn_loop()  # httpx leaves the inner ones to the loop
            assert run.trace.in_flight() == []

    await run.task(agent())
    assert run.only("http")["outcome"] == "ok"


async def test_each_run_has_its_own_cookies_and_shares_connections(server: LLMServer) -> None:
    transports = Transports(LOOPBACK)
    for _ in range(2):
        run = AgentRun()
        client = open_client(run.guard, transports)
        first = await run.task(client.get(f"{server.url}/cookie"))
        again = await run.task(client.get(f"{server.url}/cookie"))
        assert (first.text, again.text) == ("", "taste=sweet")
        await close_clients(run.guard)
        assert client.is_closed
    assert server.opened_count == 1
    await transports.aclose()
    await server.until(lambda: server.open_count == 0, "the shared connection to be closed")


def test_what_the_libraries_would_log_is_not_logged() -> None:
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
