"""Plain requests of urllib3 and requests, in code of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests
import urllib3

from agents import AgentStopped
from agents.tools.http import bodies
from agents.tools.http.client import close_clients
from agents.trace import Usage
from tests.support.agent_run import AgentRun, within
from tests.support.llm_server import TEXT, Answer
from tests.support.traffic_server import TrafficServer

CHAT: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "Where?"}]}
PATH = "/v1/chat/completions"


def by_requests(method: str, url: str, body: Any = None) -> int:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, json=body, timeout=20).status_code


def by_requests_in_pieces(method: str, url: str, body: Any = None) -> int:
    with requests.Session() as session:
        session.trust_env = False
        with session.request(method, url, json=body, timeout=20, stream=True) as response:
            assert b"".join(response.iter_content(10))
            return response.status_code


def by_urllib3(method: str, url: str, body: Any = None) -> int:
    with urllib3.PoolManager() as pool:
        return pool.request(method, url, json=body, timeout=20).status


def by_urllib3_unread(method: str, url: str, body: Any = None) -> int:
    with urllib3.PoolManager() as pool:
        response = pool.request(method, url, json=body, timeout=20, preload_content=False)
        assert response.read()
        response.release_conn()
        return response.status


Ask = Callable[..., int]
WAYS = [by_requests, by_requests_in_pieces, by_urllib3, by_urllib3_unread]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param  # type: ignore[no-any-return]


def test_a_request_is_a_call(server: TrafficServer, run: AgentRun, ask: Ask) -> None:
    def agent() -> None:
        ask("GET", server.url)
        run.stop()
        ask("GET", server.url)

    with pytest.raises(AgentStopped):
        run.call(agent)
    assert server.request_count == 1
    event = run.only("http")
    assert (event["label"], event["status"], event["outcome"]) == ("GET 127.0.0.1", 200, "ok")
    assert run.trace.in_flight() == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_is_counted_and_shown(
    server: TrafficServer, run: AgentRun, ask: Ask, stream: bool
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    run.call(ask, "POST", server.url + PATH, {**CHAT, **options})
    assert server.requests[-1].body == {**CHAT, **options}
    assert run.only("llm_call")["text"] == run.shown == TEXT
    assert run.trace.usage == Usage(1, 21, 13)
    assert run.events("http") == []


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_an_abort_cuts_it(server: TrafficServer, run: AgentRun, ask: Ask, at: str) -> None:
    server.hold(at)
    body = {**CHAT, "stream": True}
    working = asyncio.create_task(asyncio.to_thread(run.call, ask, "POST", server.url + PATH, body))
    await server.until_requests(1)
    if at == "middle" and ask is by_requests_in_pieces:
        while not run.shown:
            await asyncio.sleep(0.01)
    run.stop("abort")
    with pytest.raises(AgentStopped):
        await within(5, working)
    assert run.trace.in_flight() == []
    assert run.guard not in bodies._opened
    assert run.only("llm_call")["estimated"]


def test_a_retry_after_a_stop_is_refused(server: TrafficServer, run: AgentRun) -> None:
    def agent() -> None:
        retries = urllib3.Retry(3, status_forcelist=[503], backoff_factor=0, allowed_methods=None)
        with urllib3.PoolManager(retries=retries) as pool:
            pool.request("POST", server.url, timeout=5)

    server.answer = Answer(status=503, body="no")
    real = server._hold

    async def hold(at: str) -> None:
        run.stop()
        await real(at)

    server._hold = hold  # type: ignore[method-assign]
    with pytest.raises(AgentStopped):
        run.call(agent)
    assert server.request_count == 1
    assert run.only("http")["outcome"] == "stopped"


async def test_a_response_that_is_left_open_is_closed_at_the_end(
    server: TrafficServer, run: AgentRun
) -> None:
    def agent() -> Any:
        pool = urllib3.PoolManager()
        return pool, pool.request("GET", f"{server.url}/chunks/5", preload_content=False)

    pool, response = await asyncio.to_thread(run.call, agent)
    assert [call["label"] for call in run.trace.in_flight()] == ["GET 127.0.0.1"]
    await close_clients(run.guard)
    assert run.trace.in_flight() == []
    assert response.closed
    pool.clear()


def test_outside_a_run_nothing_changes(server: TrafficServer, ask: Ask) -> None:
    assert ask("GET", server.url) == 200


def test_a_connection_that_is_refused(run: AgentRun, ask: Ask) -> None:
    with pytest.raises(Exception, match=r"[Rr]efused"):
        run.call(ask, "GET", "http://127.0.0.1:9/")
    assert run.only("http")["outcome"] == "error"


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _traceparents(server: TrafficServer) -> list[str | None]:
    return [request.headers.get("traceparent") for request in server.requests]


def test_named_hosts_get_the_traceparent_and_redirects_elsewhere_do_not(
    server: TrafficServer, run: AgentRun, ask: Ask
) -> None:
    run.guard.traceparent_for = {"127.0.0.1": TRACEPARENT}.get
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    run.call(ask, "GET", f"{server.url}/redirect?to={elsewhere}/")
    run.call(ask, "GET", f"{elsewhere}/redirect?to={server.url}/")
    assert _traceparents(server) == [TRACEPARENT, None, None, TRACEPARENT]


@pytest.mark.parametrize("given", [{}, {"accept": "text/plain"}, {b"Traceparent": b"own"}])
def test_headers_of_the_agents_own_stay(
    server: TrafficServer, run: AgentRun, given: dict[Any, Any]
) -> None:
    run.guard.traceparent_for = {"127.0.0.1": TRACEPARENT}.get
    headers = dict(given)

    def agent() -> None:
        with urllib3.PoolManager(headers={"x-of-the-pool": "yes"}) as pool:
            pool.request("GET", server.url)
            pool.request("GET", server.url, headers=headers)
            pool.connection_from_url(server.url).urlopen("GET", "/", None, headers)

    run.call(agent)
    named = "own" if b"Traceparent" in given else TRACEPARENT
    assert _traceparents(server) == [TRACEPARENT, named, named]
    assert [request.headers.get("x-of-the-pool") for request in server.requests] == [
        "yes",
        None,
        None,
    ]
    assert headers == given
