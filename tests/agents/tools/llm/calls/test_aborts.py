"""An abort at each moment of a call: the connection is closed, and the books are right."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agents import AgentStopped
from agents.cancellation import StopCause, StopMode
from agents.tools.http.client import close_clients, open_client, open_sync_client
from agents.tools.http.pools import Transports
from agents.tools.llm.client import Model, call_llm
from agents.values.addresses import AllowList, Reach
from tests.support.agent_run import AgentRun, turn_loop, waiter, within
from tests.support.llm_calls import ASK, KEY, ask, busy_counts
from tests.support.llm_server import Answer, LLMServer
from tests.support.silent_server import FullServer, SilentServer

SECONDS = 10.0
#: How many calls are aborted in a row on one pool; more by hand: ABORTS=10000.
ABORTS = int(os.environ.get("ABORTS", "200"))


@asynccontextmanager
async def model_at(url: str) -> AsyncIterator[Model]:
    model = Model(url, KEY, "test-model")
    try:
        yield model
    finally:
        await model.aclose()


async def aborted(run: AgentRun, call: asyncio.Future[Any]) -> dict[str, Any]:
    """Abort a call; return its event."""
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(SECONDS, call)
    [event] = [*run.events("llm_call"), *run.events("http")]
    assert event["outcome"] == "aborted"
    assert run.guard.calls_cut == 1
    assert run.trace.in_flight() == []
    return event


async def test_before_the_first_byte(server: LLMServer, model: Model, run: AgentRun) -> None:
    server.hold("start")
    call = ask(run, model)
    await server.until_requests(1)
    event = await aborted(run, call)
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    assert "sent" not in event
    # What was sent is paid for: 61 characters.
    assert event["estimated"] is True
    assert (event["input_tokens"] > 10, event["output_tokens"]) == (True, 0)
    assert (run.trace.usage.llm_calls, run.trace.usage.estimated) == (1, True)
    assert busy_counts(model) == [0]


@pytest.mark.parametrize("has_begun", [False, True])
async def test_between_its_admission_and_its_request(
    server: LLMServer, model: Model, run: AgentRun, has_begun: bool
) -> None:
    """The SDK waits for other things in between."""

    async def agent() -> None:
        converse = model.converse

        async def stopped_before(*arguments: Any) -> None:
            run.token.stopped, run.token.mode = True, StopMode.ABORT  # no cut comes
            run.token.cause = StopCause.REQUEST
            await converse(*arguments)

        if has_begun:
            model.converse = stopped_before  # type: ignore[method-assign]
            await call_llm(run.guard, model, ASK)
        else:
            admit = run.token.admit

            def then_stop(*arguments: Any, **options: Any) -> float:
                at = admit(*arguments, **options)
                run.token.admit = admit  # type: ignore[method-assign]
                run.stop("abort")
                return at

            run.token.admit = then_stop  # type: ignore[method-assign]
            await call_llm(run.guard, model, ASK)

    with pytest.raises(AgentStopped):
        await within(SECONDS, run.task(agent()))
    event = run.only("llm_call")
    assert (event["outcome"], event["sent"]) == ("aborted", False)
    assert "input_tokens" not in event
    assert run.trace.usage.llm_calls == 0
    assert server.request_count == 0


async def test_in_the_middle_of_the_stream(server: LLMServer, model: Model, run: AgentRun) -> None:
    server.hold("middle")
    call = ask(run, model)
    await server.until_requests(1)
    async with asyncio.timeout(SECONDS):
        while not run.shown:
            await asyncio.sleep(0.001)
    event = await aborted(run, call)
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    assert (event["text"], event["estimated"]) == (run.shown, True)
    assert event["input_tokens"] > 0
    assert event["output_tokens"] > 0


@pytest.mark.parametrize("place", ["look-up", "connect", "TLS"])
@pytest.mark.parametrize("tool", ["call_llm", "http", "http in a thread"])
async def test_before_anything_was_sent(
    run: AgentRun, place: str, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = FullServer() if place == "connect" else SilentServer()
    if place == "look-up":

        async def never(*args: Any, **options: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
        monkeypatch.setattr("agents.tools.http.addresses._resolve", never)
    host = "name.invalid" if place == "look-up" else "127.0.0.1"
    with silent:
        url = f"{'https' if place == 'TLS' else 'http'}://{host}:{silent.port}"
        transports = Transports(Reach(AllowList(["*"])))
        async with model_at(f"{url}/v1") as model:
            if tool == "call_llm":
                call: asyncio.Future[Any] = ask(run, model)
            elif tool == "http":
                call = run.task(open_client(run.guard, transports).get(url))
            else:
                client = open_sync_client(run.guard, transports, waiter())
                get: Callable[[], httpx.Response] = lambda: client.get(url)  # noqa: E731
                call = asyncio.ensure_future(asyncio.to_thread(run.call, get))
            await in_flight(run)
            if isinstance(silent, SilentServer) and place == "TLS":
                assert await asyncio.to_thread(silent.greeted.wait, SECONDS)
            await asyncio.sleep(0.05)  # to the place; if it is not there yet, it is cut before
            event = await aborted(run, call)
            if isinstance(silent, SilentServer) and place == "TLS":
                assert await asyncio.to_thread(silent.left.wait, SECONDS)
            assert event["sent"] is False
            assert run.trace.usage.llm_calls == 0
            assert run.trace.usage.input_tokens == 0
        await close_clients(run.guard)
        await transports.aclose()


async def in_flight(run: AgentRun) -> None:
    async with asyncio.timeout(SECONDS):
        while not run.trace.in_flight():
            await asyncio.sleep(0.001)


async def test_in_the_pause_before_a_retry(server: LLMServer, model: Model, run: AgentRun) -> None:
    server.answer = Answer(status=429, headers={"Retry-After": "60"})
    call = ask(run, model)
    await server.until(lambda: server.closed_count == 1, "the first answer to be given up")
    await aborted(run, call)
    assert server.request_count == 1


@pytest.mark.parametrize("at", ["start", "middle"])
@pytest.mark.parametrize("is_in_thread", [False, True])
async def test_a_request_and_its_body(
    server: LLMServer, run: AgentRun, at: str, is_in_thread: bool
) -> None:
    transports = Transports(Reach(AllowList(["*"])))
    url = f"{server.url}/chunks/3"
    server.hold(at)
    if is_in_thread:
        client = open_sync_client(run.guard, transports, waiter())
        call = asyncio.ensure_future(asyncio.to_thread(run.call, lambda: client.get(url)))
    else:
        call = run.task(open_client(run.guard, transports).get(url))
    await server.until_requests(1)
    await turn_loop()
    event = await aborted(run, call)
    assert event.get("sent") is not False
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    server.release()
    await close_clients(run.guard)
    await transports.aclose()


async def test_a_stream_of_events_does_not_hold_up_a_graceful_stop(
    server: LLMServer, run: AgentRun
) -> None:
    """No line follows, and the run waits for none."""
    transports = Transports(Reach(AllowList(["*"])))
    server.hold("middle")
    got: list[bytes] = []

    async def agent() -> None:
        client = open_client(run.guard, transports)
        async with client.stream("GET", f"{server.url}/events") as response:
            async for chunk in response.aiter_bytes():
                got.append(chunk)

    task = run.task(agent())
    async with asyncio.timeout(SECONDS):
        while not got:
            await asyncio.sleep(0.001)
    run.stop()
    with pytest.raises(AgentStopped):
        await within(SECONDS, task)
    assert run.only("http")["outcome"] == "stopped"
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    server.release()
    await close_clients(run.guard)
    await transports.aclose()


@pytest.mark.parametrize("library", ["httpx2 of the model", "httpx of tools.http"])
async def test_many_aborts_lose_no_place_in_a_pool(server: LLMServer, library: str) -> None:
    """Each is at another moment of a call; the next call works."""
    transports = Transports(Reach(AllowList(["*"])))
    server.answer = Answer(text="word " * 5, pause=0.001)
    server.hold("middle")
    async with model_at(server.base_url) as model:
        model._endpoint._client.max_retries = 0
        pools: Any
        if library.startswith("httpx2"):
            pools = model._own_transports._http2_async  # type: ignore[union-attr]
        else:
            pools = transports._http_async

        async def call(run: AgentRun) -> Any:
            if library.startswith("httpx2"):
                return await ask(run, model)
            client = open_client(run.guard, transports)
            try:
                return await run.task(client.get(f"{server.url}/chunks/3"))
            finally:
                await close_clients(run.guard)

        for start in range(0, ABORTS, 10):
            runs = [AgentRun() for _ in range(10)]
            calls = [asyncio.ensure_future(call(run)) for run in runs]
            for number, run in enumerate(runs):
                await asyncio.sleep(0.0003 * ((start + number) % 7))
                run.stop("abort")
            ended = await within(SECONDS, asyncio.gather(*calls, return_exceptions=True))
            assert {type(error) for error in ended} == {AgentStopped}
        assert [pool.busy_count for pool in pools._pools] == [0]
        [pool] = pools._pools
        inner = pool.transport._pool
        async with asyncio.timeout(SECONDS):
            while any(not connection.is_idle() for connection in inner.connections):
                await asyncio.sleep(0.001)
        server.release()
        last = AgentRun()
        if library.startswith("httpx2"):
            assert (await within(SECONDS, ask(last, model))).text
        else:
            assert (await within(SECONDS, call(last))).text
    await transports.aclose()
