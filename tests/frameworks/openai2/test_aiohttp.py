"""Plain sessions of aiohttp, in code of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from agents import AgentStopped
from agents.tools.http import bodies
from agents.tools.http.client import close_clients
from agents.trace import Usage
from tests.support.agent_run import AgentRun, within
from tests.support.llm_server import TEXT, Answer
from tests.support.traffic_server import TrafficServer

CHAT: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "Where?"}]}
STREAM: Any = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
PATH = "/v1/chat/completions"

pytestmark = pytest.mark.usefixtures("everything_is_guarded")

Read = Callable[[aiohttp.ClientResponse], Awaitable[bytes]]


async def whole(response: aiohttp.ClientResponse) -> bytes:
    return await response.read()


async def by_lines(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([line async for line in response.content])


async def by_any(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([data async for data in response.content.iter_any()])


async def by_size(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([data async for data in response.content.iter_chunked(7)])


async def by_chunks(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([data async for data, _ in response.content.iter_chunks()])


@pytest.fixture(params=[whole, by_lines, by_any, by_size, by_chunks], ids=lambda way: way.__name__)
def read(request: pytest.FixtureRequest) -> Read:
    return request.param  # type: ignore[no-any-return]


async def ask(read: Read, method: str, url: str, body: Any = None) -> bytes:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body) as response,
    ):
        return await read(response)


async def test_a_request_is_a_call(traffic: TrafficServer, run: AgentRun, read: Read) -> None:
    async def agent() -> None:
        assert await ask(read, "GET", traffic.url) == b"hello"
        run.stop()
        await ask(read, "GET", traffic.url)

    with pytest.raises(AgentStopped):
        await within(5, run.task(agent()))
    assert traffic.request_count == 1
    event = run.only("http")
    assert (event["label"], event["status"], event["outcome"]) == ("GET 127.0.0.1", 200, "ok")


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_model_is_counted_and_shown(
    traffic: TrafficServer, run: AgentRun, read: Read, body: Any
) -> None:
    raw = await within(5, run.task(ask(read, "POST", traffic.url + PATH, body)))
    assert raw.endswith(b"\n\n" if body is STREAM else b"}")
    assert traffic.requests[-1].body == body
    assert run.only("llm_call")["text"] == run.shown == TEXT
    assert run.trace.usage == Usage(1, 21, 13)


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_an_abort_cuts_it(traffic: TrafficServer, run: AgentRun, read: Read, at: str) -> None:
    traffic.hold(at)
    task = run.task(ask(read, "POST", traffic.url + PATH, STREAM))
    await traffic.until_requests(1)
    while at == "middle" and read is not whole and not run.shown:
        await asyncio.sleep(0.01)
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(5, task)
    await traffic.until(lambda: traffic.aborted_count == 1, "a closed connection")
    event = run.only("llm_call")
    assert (event["outcome"], event["estimated"]) == ("aborted", True)
    assert run.trace.in_flight() == []
    assert run.guard not in bodies._opened


async def test_a_graceful_stop_lets_it_finish(
    traffic: TrafficServer, run: AgentRun, read: Read
) -> None:
    traffic.hold("middle")
    task = run.task(ask(read, "POST", traffic.url + PATH, STREAM))
    await traffic.until_requests(1)
    run.stop()
    traffic.release()
    assert TEXT.split()[-1].encode() in await within(5, task)
    assert run.trace.usage == Usage(1, 21, 13)


async def test_a_caller_that_is_cancelled_in_a_graceful_stop_pays_for_all(
    traffic: TrafficServer, run: AgentRun
) -> None:
    traffic.hold()
    task = run.task(ask(whole, "POST", traffic.url + PATH, STREAM))
    await traffic.until_requests(1)
    run.stop()
    task.cancel()
    traffic.release()
    with pytest.raises(asyncio.CancelledError):
        await within(5, task)
    assert run.only("llm_call")["text"] == TEXT
    assert run.trace.usage == Usage(1, 21, 13)


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_reader_that_is_cancelled_pays_for_all_if_the_run_is_stopping(
    traffic: TrafficServer, run: AgentRun, is_stopped: bool
) -> None:
    traffic.hold("middle")
    task = run.task(ask(by_any, "POST", traffic.url + PATH, STREAM))
    while not run.shown:
        await asyncio.sleep(0.01)
    if is_stopped:
        run.stop()
    task.cancel()
    traffic.release()
    with pytest.raises(asyncio.CancelledError):
        await within(5, task)
    event = run.only("llm_call")
    assert event["outcome"] == ("ok" if is_stopped else "aborted")
    assert event["text"] == (TEXT if is_stopped else "The ")
    assert run.trace.usage.estimated is not is_stopped


async def test_a_time_limit_of_the_session_holds(traffic: TrafficServer, run: AgentRun) -> None:
    async def agent() -> None:
        timeout = aiohttp.ClientTimeout(total=0.2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await session.post(traffic.url + PATH, json=CHAT)

    traffic.hold()
    with pytest.raises(TimeoutError):
        await within(5, run.task(agent()))
    assert run.trace.usage == Usage(1, 2, 0, estimated=True)


async def test_a_refused_request_counts_nothing(traffic: TrafficServer, run: AgentRun) -> None:
    traffic.answer = Answer(status=429, body={"error": {"message": "Too fast."}})
    await within(5, run.task(ask(whole, "POST", traffic.url + PATH, CHAT)))
    assert run.only("llm_call")["outcome"] == "error"
    assert run.trace.usage == Usage()


async def test_a_body_that_is_not_read(traffic: TrafficServer, run: AgentRun) -> None:
    async def agent() -> int:
        async with aiohttp.ClientSession() as session, session.get(traffic.url) as response:
            return response.status

    assert await within(5, run.task(agent())) == 200
    assert run.only("http")["outcome"] == "ok"


async def test_a_response_that_is_left_open_is_closed_at_the_end(
    traffic: TrafficServer, run: AgentRun
) -> None:
    session = aiohttp.ClientSession()

    async def agent() -> Any:
        return await session.get(f"{traffic.url}/events")

    response = await within(5, run.task(agent()))
    assert len(run.trace.in_flight()) == 1
    await close_clients(run.guard)
    assert run.trace.in_flight() == []
    assert response.closed
    await session.close()


async def test_other_middlewares_stay_and_their_retries_are_refused(
    traffic: TrafficServer, run: AgentRun
) -> None:
    async def retrying(request: Any, handler: Any) -> Any:
        await (await handler(request)).read()
        run.stop()
        return await handler(request)

    async def agent() -> None:
        async with aiohttp.ClientSession(middlewares=(retrying,)) as session:
            await session.get(traffic.url)

    with pytest.raises(AgentStopped):
        await within(5, run.task(agent()))
    assert traffic.request_count == 1


async def test_outside_a_run_nothing_changes(traffic: TrafficServer, read: Read) -> None:
    assert await ask(read, "GET", traffic.url) == b"hello"


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_named_hosts_get_the_traceparent_and_redirects_elsewhere_do_not(
    traffic: TrafficServer, run: AgentRun, read: Read
) -> None:
    run.guard.traceparent_for = {"127.0.0.1": TRACEPARENT}.get
    elsewhere = traffic.url.replace("127.0.0.1", "localhost")

    async def agent() -> None:
        await ask(read, "GET", f"{traffic.url}/redirect?to={elsewhere}/")
        await ask(read, "GET", f"{elsewhere}/redirect?to={traffic.url}/")
        async with aiohttp.ClientSession() as session:
            await session.get(traffic.url, headers={"TraceParent": "own"})

    await within(5, run.task(agent()))
    given = [request.headers.get("traceparent") for request in traffic.requests]
    assert given == [TRACEPARENT, None, None, TRACEPARENT, "own"]
