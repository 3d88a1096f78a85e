"""HTTP under guard, over real connections, for both libraries and both colours."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import openai
import pytest

from agents.cancellation import StopCause, cleanup
from agents.exceptions import AgentStopped, RunIsOver
from agents.tools.http import bodies
from agents.tools.http.client import (
    Transports,
    close_clients,
    guarded_transport,
    open_client,
    open_sync_client,
)
from tests.support.agent_run import AgentRun, turn_loop, within
from tests.support.llm_server import TEXT, Answer, LLMServer

LIBRARIES = [httpx, httpx2]
ASK: Any = [{"role": "user", "content": "Where did the ship go?"}]


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server
        server.release()


@pytest.fixture
def run() -> AgentRun:
    return AgentRun()


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


def async_client(library: Any) -> Any:
    """Make an agent's own client. Called within a run, or not."""
    return library.AsyncClient(
        transport=guarded_transport(
            library.AsyncHTTPTransport(limits=library.Limits(max_connections=10))
        ),
        timeout=5,
    )


def sync_client(library: Any) -> Any:
    return library.Client(transport=guarded_transport(library.HTTPTransport()), timeout=5)


async def get(client: Any, url: str) -> Any:
    return await client.get(url)


# --- what a request is ----------------------------------------------------------------------


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


def test_the_wrapper_is_of_the_same_kind() -> None:
    for library in LIBRARIES:
        transport: Any = guarded_transport(library.AsyncHTTPTransport())
        assert isinstance(transport, library.AsyncBaseTransport)
        assert not isinstance(transport, library.BaseTransport)
        assert guarded_transport(transport) is transport
        transport = guarded_transport(library.HTTPTransport())
        assert isinstance(transport, library.BaseTransport)
        assert not isinstance(transport, library.AsyncBaseTransport)
        both: Any = guarded_transport(library.MockTransport(lambda request: None))
        assert isinstance(both, library.BaseTransport)
        assert isinstance(both, library.AsyncBaseTransport)


@pytest.mark.parametrize("thing", [None, httpx.AsyncClient, "x"])
def test_what_is_no_transport_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="a transport of httpx or httpx2"):
        guarded_transport(thing)


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
    transports = Transports()
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


# --- stopping -------------------------------------------------------------------------------


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
    assert run.events("http") == []  # the refusal is told by stop_observed
    assert run.only("stop_observed") == {"tool": "http", "label": "GET 127.0.0.1"}


async def test_a_call_that_was_admitted_sends_its_first_request_and_no_second(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    """A stop may come between a call's admission and its request; a retry comes after it."""

    async def agent() -> int:
        with run.guard.call("call_llm", "a model"):
            run.stop()
            async with async_client(library) as client:
                first = await client.get(server.url)
                with pytest.raises(AgentStopped):
                    await client.get(server.url)
        return int(first.status_code)

    assert await within(5, run.task(agent())) > 0
    assert server.request_count == 1


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


async def test_a_cancelled_reader_of_an_endless_stream_ends_although_a_stop_is_graceful(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    async def reader(client: Any) -> None:
        async with client.stream("GET", f"{server.url}/events") as response:
            async for _ in response.aiter_bytes():
                begun.set()

    async def sibling() -> None:
        await begun.wait()
        run.stop()
        run.guard.check("test")

    async def agent() -> None:
        async with async_client(library) as client, asyncio.TaskGroup() as group:
            group.create_task(reader(client))
            group.create_task(sibling())

    begun = asyncio.Event()
    with pytest.raises(BaseExceptionGroup):
        await within(5, run.task(agent()))
    assert len(run.events("http")) == 1
    await server.until(lambda: server.open_count == 0, "the connection to be closed")


@pytest.mark.parametrize("at", ["start", "middle"])
@pytest.mark.parametrize("shared", [True, False])
async def test_an_agents_own_time_limit_cuts_and_loses_no_connection(
    server: LLMServer, run: AgentRun, library: Any, at: str, shared: bool
) -> None:
    transports = Transports()
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
    assert run.only("http")["outcome"] == "stopped"
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
    assert run.only("http")["outcome"] == "stopped"


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
    event = run.only("http")
    assert (event["label"], event["outcome"]) == ("POST 127.0.0.1", "ok")


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


# --- lost contexts --------------------------------------------------------------------------


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
    transports = Transports()
    client = open_client(run.guard, transports)
    assert (await client.get(server.url)).text == "hello"  # this task is outside of any run
    threads_client = open_sync_client(run.guard, transports)
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


# --- what an agent leaves open --------------------------------------------------------------


async def settle(run: AgentRun) -> None:
    settling = asyncio.create_task(run.guard.settle())
    await turn_loop()
    assert not settling.done()
    await close_clients(run.guard)
    await within(2, settling)


@pytest.mark.parametrize("own", [True, False])
async def test_a_response_that_nobody_closes_does_not_keep_the_run_from_ending(
    server: LLMServer, run: AgentRun, own: bool
) -> None:
    transports = Transports()
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


async def test_a_thread_s_response_that_nobody_closes_does_not_either(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports()

    def agent() -> None:
        client = open_sync_client(run.guard, transports)
        client.send(client.build_request("GET", f"{server.url}/events"), stream=True)

    await asyncio.to_thread(run.call, agent)
    await settle(run)
    await server.until(lambda: server.open_count == 0, "the connection to be closed")
    await transports.aclose()


async def test_a_reader_that_the_agent_left_behind_is_ended(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    client = async_client(library)
    begun = asyncio.Event()

    async def reader() -> None:
        async with client.stream("GET", f"{server.url}/chunks/3") as response:
            async for _ in response.aiter_bytes():
                begun.set()

    server.hold("middle")
    task = run.task(reader())
    await within(5, begun.wait())
    await settle(run)
    with pytest.raises((asyncio.CancelledError, RunIsOver)):
        await within(2, task)
    assert run.only("http")["outcome"] == "aborted"
    await client.aclose()


async def test_a_thread_that_reads_on_after_the_end_is_refused(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports()
    begun = threading.Event()

    def agent() -> None:
        client = open_sync_client(run.guard, transports)
        with client.stream("GET", f"{server.url}/events") as response:
            for _ in response.iter_bytes():
                begun.set()

    task = asyncio.create_task(asyncio.to_thread(run.call, agent))
    await asyncio.to_thread(begun.wait, 5)
    await settle(run)
    with pytest.raises((RunIsOver, httpx.HTTPError)):
        await within(5, task)
    await transports.aclose()


async def test_nothing_is_remembered_of_a_run_that_is_over(
    server: LLMServer, run: AgentRun
) -> None:
    transports = Transports()
    client = open_client(run.guard, transports)
    await run.task(client.get(server.url))
    await close_clients(run.guard)
    await close_clients(run.guard)
    own = async_client(httpx)
    await run.task(own.get(server.url))
    assert bodies._opened == {}
    await own.aclose()
    await transports.aclose()
