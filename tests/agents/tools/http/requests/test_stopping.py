"""Stopping."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import openai
import pytest

from agents.cancellation import StopCause, cleanup
from agents.exceptions import AgentStopped
from agents.tools.http import bodies
from agents.tools.http.client import (
    Transports,
    close_clients,
    guarded_transport,
    open_client,
)
from tests.support.agent_run import AgentRun, turn_loop, within
from tests.support.http_clients import ASK, LOOPBACK, async_client, get, sync_client
from tests.support.llm_server import TEXT, Answer, LLMServer


async def test_after_a_stop_no_request_leaves(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    run.stop()
    async with async_client(library) as client:
        with pytest.raises(AgentStopped):
            await run.task(client.get(server.url))
    with sync_client(library) as client, pytest.raises(AgentStopped):
        run.call(client.get, server.url)
    assert server.request_count == 0
    assert run.events("http") == []  # stop_observed records the refusal
    assert run.only("stop_observed") == {"tool": "http", "label": "GET 127.0.0.1"}


@pytest.mark.parametrize("sent_before", [0, 1])
async def test_a_call_that_was_admitted_sends_nothing_after_a_stop(
    server: LLMServer, run: AgentRun, library: Any, sent_before: int
) -> None:
    """A stop may come between a call's admission and its request, or before a retry."""

    async def agent() -> None:
        with run.guard.call("call_llm", "a model"):
            async with async_client(library) as client:
                for _ in range(sent_before):
                    await client.get(server.url)
                run.stop()
                with pytest.raises(AgentStopped):
                    await client.get(server.url)

    await within(5, run.task(agent()))
    assert server.request_count == sent_before


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_a_stop_lets_a_request_finish_with_its_body(
    server: LLMServer, run: AgentRun, library: Any, at: str
) -> None:
    async def agent() -> None:
        async with async_client(library) as client:
            texts.append((await client.get(f"{server.url}/chunks/3")).text)
            await client.get(server.url)

    texts: list[str] = []
    server.hold(at)
    task = run.task(agent())
    await server.until_requests(1)
    run.stop()
    await turn_loop()
    server.release()
    with pytest.raises(AgentStopped):
        await within(5, task)
    assert texts == ["chunk 0\nchunk 1\nchunk 2\n"]
    await server.until(lambda: server.completed_count == 1, "the answer to be sent to its end")
    assert server.request_count == 1
    assert run.only("http")["outcome"] == "ok"


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_a_stop_lets_a_thread_s_request_finish_with_its_body(
    server: LLMServer, run: AgentRun, library: Any, at: str
) -> None:
    def agent() -> None:
        with sync_client(library) as client:
            texts.append(client.get(f"{server.url}/chunks/3").text)
            client.get(server.url)

    texts: list[str] = []
    server.hold(at)
    task = asyncio.create_task(asyncio.to_thread(run.call, agent))
    await server.until_requests(1)
    run.stop()
    server.release()
    with pytest.raises(AgentStopped):
        await within(5, task)
    assert texts == ["chunk 0\nchunk 1\nchunk 2\n"]
    assert server.request_count == 1


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_a_task_group_that_falls_apart_on_a_stop_does_not_cut_a_siblings_request(
    server: LLMServer, run: AgentRun, library: Any, at: str
) -> None:
    async def sibling() -> None:
        await stopped.wait()
        run.guard.check("test")

    async def agent() -> None:
        async with async_client(library) as client, asyncio.TaskGroup() as group:
            group.create_task(client.get(f"{server.url}/chunks/5"))
            group.create_task(sibling())

    stopped = asyncio.Event()
    server.hold(at)
    task = run.task(agent())
    await server.until_requests(1)
    if at == "middle":
        async with asyncio.timeout(5):
            while not run.guard.trace._calls or not bodies._opened:
                await asyncio.sleep(0.001)
    run.stop()
    stopped.set()
    await turn_loop()
    assert not task.done()
    server.release()
    with pytest.raises(BaseExceptionGroup) as caught:
        await within(5, task)
    assert caught.group_contains(AgentStopped)
    await server.until(lambda: server.completed_count == 1, "the body to be read to its end")
    event = run.only("http")
    assert (event["outcome"], event["status"]) == ("ok", 200)


@pytest.mark.parametrize("label", ["text/event-stream", "Text/Event-Stream"])
async def test_a_cancelled_reader_of_an_endless_stream_ends_although_a_stop_is_graceful(
    server: LLMServer, run: AgentRun, library: Any, label: str
) -> None:
    async def reader(client: Any) -> None:
        async with client.stream("GET", f"{server.url}/events?label={label}") as response:
            async for _ in response.aiter_bytes():
                started.set()

    async def sibling() -> None:
        await started.wait()
        run.stop()
        run.guard.check("test")

    async def agent() -> None:
        async with async_client(library) as client, asyncio.TaskGroup() as group:
            group.create_task(reader(client))
            group.create_task(sibling())

    started = asyncio.Event()
    with pytest.raises(BaseExceptionGroup):
        await within(5, run.task(agent()))
    assert len(run.events("http")) == 1
    await server.until(lambda: server.open_count == 0, "the connection to be closed")


@pytest.mark.parametrize("at", ["start", "middle"])
@pytest.mark.parametrize("shared", [True, False])
async def test_an_agents_own_time_limit_cuts_and_loses_no_connection(
    server: LLMServer, run: AgentRun, library: Any, at: str, shared: bool
) -> None:
    transports = Transports(LOOPBACK)
    if not shared:
        client = async_client(library)
    elif library is httpx:
        client = open_client(run.guard, transports)
    else:
        client = httpx2.AsyncClient(transport=guarded_transport(transports.httpx2_async()))

    async def impatient() -> None:
        async with asyncio.timeout(0.02):
            await client.get(f"{server.url}/chunks/3")

    server.hold(at)
    for _ in range(5):
        tasks = [run.task(impatient()) for _ in range(10)]
        await within(10, asyncio.wait(tasks))
        assert all(isinstance(task.exception(), TimeoutError) for task in tasks)
    server.release()
    answers = await within(
        5, asyncio.gather(*(run.task(get(client, server.url)) for _ in "x" * 10))
    )
    assert [answer.text for answer in answers] == ["hello"] * 10
    outcomes = [event["outcome"] for event in run.events("http")]
    assert outcomes == ["aborted"] * 50 + ["ok"] * 10
    await client.aclose()
    await close_clients(run.guard)
    await transports.aclose()
    await server.until(lambda: server.open_count == 0, "all connections to be closed")


@pytest.mark.parametrize("mode", ["abort", "abandon"])
async def test_a_harder_stop_refuses_the_next_chunk(
    server: LLMServer, run: AgentRun, library: Any, mode: str
) -> None:
    async def agent() -> None:
        async with (
            async_client(library) as client,
            client.stream("GET", f"{server.url}/events") as response,
        ):
            async for _ in response.aiter_bytes():
                run.stop(mode)

    with pytest.raises(AgentStopped):
        await within(5, run.task(agent()))
    if mode == "abort":  # the log of an abandoned run is over
        assert run.only("http")["outcome"] == "aborted"
    assert run.guard.calls_cut == 1
    await server.until(lambda: server.open_count == 0, "the connection to be closed")


async def test_a_harder_stop_refuses_a_thread_s_next_chunk(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    def agent() -> None:
        with (
            sync_client(library) as client,
            client.stream("GET", f"{server.url}/events") as response,
        ):
            for _ in response.iter_bytes():
                run.stop("abort")

    with pytest.raises(AgentStopped):
        await within(5, asyncio.to_thread(run.call, agent))
    assert run.only("http")["outcome"] == "aborted"


async def test_within_cleanup_requests_go_through(server: LLMServer, run: AgentRun) -> None:
    async def agent() -> str:
        run.stop("abort")
        async with cleanup(5), async_client(httpx) as client:
            return str((await client.get(f"{server.url}/chunks/2")).text)

    assert await within(5, run.task(agent())) == "chunk 0\nchunk 1\n"
    assert run.only("http")["cleanup"] is True


async def test_when_the_process_goes_away_a_request_is_cut(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    client = async_client(library)
    server.hold("middle")
    task = run.task(get(client, f"{server.url}/chunks/3"))
    await server.until_requests(1)
    run.token.request(cause=StopCause.SHUTDOWN)
    run.guard.host_cancelled = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(2, task)
    assert run.only("http")["outcome"] == "aborted"
    await client.aclose()


async def test_an_agents_own_sdk_is_stoppable_with_one_argument(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        sdk = openai.AsyncOpenAI(
            base_url=server.base_url, api_key="x", http_client=async_client(library)
        )
        try:
            for _ in range(2):
                stream = await sdk.chat.completions.create(model="m", messages=ASK, stream=True)
                async for chunk in stream:
                    texts.append(chunk.choices[0].delta.content or "")
                    run.stop()
        finally:
            await sdk.close()

    texts: list[str] = []
    with pytest.raises(AgentStopped):
        await within(5, run.task(agent()))
    assert "".join(texts) == TEXT
    assert server.request_count == 1
    event = run.only("llm_call")
    assert (event["label"], event["text"], event["outcome"]) == ("m", TEXT, "ok")


async def test_a_retry_of_an_agents_own_sdk_is_refused(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        client = async_client(library)
        async with openai.AsyncOpenAI(
            base_url=server.base_url, api_key="x", http_client=client
        ) as sdk:
            await sdk.chat.completions.create(model="m", messages=ASK)

    server.answer = Answer(status=500, headers={"Retry-After": "0.01"})
    server.hold()
    task = run.task(agent())
    await server.until_requests(1)
    run.stop()
    server.release()
    with pytest.raises(AgentStopped):
        await within(5, task)
    assert server.request_count == 1


async def test_within_a_guarded_call_a_request_is_only_checked(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async def agent() -> None:
        async with async_client(library) as client:
            with run.guard.call("call_llm", "m"):
                await client.get(server.url)
                run.stop()
                await client.get(server.url)

    with pytest.raises(AgentStopped):
        await run.task(agent())
    assert server.request_count == 1
    assert run.events("http") == []
    assert run.only("stop_observed") == {"tool": "call_llm", "label": "m"}


async def test_no_moment_of_a_cut_loses_a_connection(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    """httpx 0.28.1 alone loses some of these for ever: the slots of its pool, one by one."""
    inner = library.AsyncHTTPTransport(limits=library.Limits(max_connections=None))
    client = library.AsyncClient(transport=guarded_transport(inner), timeout=5)

    async def impatient(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await client.get(f"{server.url}/chunks/3")

    server.hold("middle")
    for _ in range(10):
        tasks = [run.task(impatient(number * 0.0005)) for number in range(40)]
        await within(10, asyncio.wait(tasks))
        assert all(isinstance(task.exception(), TimeoutError) for task in tasks)
    await turn_loop()
    assert inner._pool.connections == []
    await client.aclose()
