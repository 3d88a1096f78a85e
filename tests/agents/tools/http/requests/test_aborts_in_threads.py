"""A stop cuts the request of a thread that has an HTTP client of its own."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from agents import AgentStopped, cleanup, guarded_transport
from agents.guard.in_flight import QUIET_SECONDS
from tests.support.agent_run import AgentRun, within
from tests.support.forward_proxy import make_certificate
from tests.support.llm_server import LLMServer

SECONDS = 10.0


def sync_client(library: Any) -> Any:
    """Make a client whose own time limit comes too late for a test."""
    return library.Client(transport=guarded_transport(library.HTTPTransport()), timeout=60)


@pytest.mark.parametrize("is_reused", [False, True], ids=["new connection", "reused"])
@pytest.mark.parametrize("at", ["start", "middle"])
async def test_it_is_cut_and_its_client_works_afterwards(
    server: LLMServer, run: AgentRun, library: Any, at: str, is_reused: bool
) -> None:
    has_head = threading.Event()
    with sync_client(library) as client:
        client.event_hooks = {"response": [lambda response: has_head.set()]}
        if is_reused:
            assert client.get(server.url).text == "hello"
        server.hold(at)
        has_head.clear()
        before = server.request_count
        cut = asyncio.create_task(asyncio.to_thread(run.call, client.get, f"{server.url}/chunks/5"))
        await server.until_requests(before + 1)
        if at == "middle":
            await asyncio.to_thread(has_head.wait, SECONDS)
        run.stop("abort")
        with pytest.raises(AgentStopped):
            await within(SECONDS, cut)
        await server.until(lambda: server.aborted_count == 1, "a closed connection")
        server.release()
        assert client.get(server.url).text == "hello"
    assert server.opened_count == 2
    event = run.only("http")
    assert (event["outcome"], event.get("sent")) == ("aborted", None)
    assert run.guard.calls_cut == 1
    assert run.trace.in_flight() == []


async def test_it_is_cut_in_tls(run: AgentRun, library: Any, tmp_path: Path) -> None:
    serving, trusting = make_certificate(tmp_path)
    with LLMServer(serving) as server:
        server.hold()
        transport = guarded_transport(library.HTTPTransport(verify=trusting))
        with library.Client(transport=transport, timeout=60) as client:
            cut = asyncio.create_task(asyncio.to_thread(run.call, client.get, server.url))
            await server.until_requests(1)
            run.stop("abort")
            with pytest.raises(AgentStopped):
                await within(SECONDS, cut)
        await server.until(lambda: server.aborted_count == 1, "a closed connection")
        server.release()


async def test_another_run_on_the_same_client_is_not_cut(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    other = AgentRun()
    server.hold()
    with sync_client(library) as client:
        cut, kept = (
            asyncio.create_task(asyncio.to_thread(each.call, client.get, server.url))
            for each in (run, other)
        )
        await server.until_requests(2)
        run.stop("abort")
        with pytest.raises(AgentStopped):
            await within(SECONDS, cut)
        server.release()
        assert (await within(SECONDS, kept)).text == "hello"
    assert other.only("http")["outcome"] == "ok"


async def test_a_graceful_stop_does_not_wait_for_the_next_line_of_a_stream_without_an_end(
    server: LLMServer, run: AgentRun, library: Any
) -> None:
    """It waits for another call in flight: that one may answer what the stream is about."""
    has_line = threading.Event()

    def subscribe() -> None:
        with (
            sync_client(library) as client,
            client.stream("GET", f"{server.url}/events") as response,
        ):
            for _ in response.iter_bytes():
                has_line.set()

    server.hold("middle")
    with run.guard.call("http", "GET another"):
        reading = asyncio.create_task(asyncio.to_thread(run.call, subscribe))
        await asyncio.to_thread(has_line.wait, SECONDS)
        run.stop()
        await asyncio.wait((reading,), timeout=3 * QUIET_SECONDS)
        assert not reading.done()
    with pytest.raises(AgentStopped):
        await within(SECONDS, reading)
    assert [event["outcome"] for event in run.events("http")] == ["ok", "stopped"]
    assert run.guard.calls_cut == 0
    server.release()


def test_it_is_cut_on_the_loops_own_thread(server: LLMServer, run: AgentRun, library: Any) -> None:
    """An ``async def`` agent that blocks its loop: only another thread can cut."""

    async def agent() -> None:
        with sync_client(library) as client:
            run.call(client.get, server.url)

    server.hold()

    def abort() -> None:
        asyncio.run(server.until_requests(1))
        run.stop("abort")

    aborting = threading.Thread(target=abort)
    aborting.start()
    with pytest.raises(AgentStopped):
        asyncio.run(agent())
    aborting.join()
    server.release()


async def test_cleanup_is_not_cut(server: LLMServer, run: AgentRun, library: Any) -> None:
    def save() -> str:
        with sync_client(library) as client, cleanup(SECONDS):
            return str(client.get(server.url).text)

    server.hold()
    saving = asyncio.create_task(asyncio.to_thread(run.call, save))
    await server.until_requests(1)
    run.stop("abort")
    server.release()
    assert await within(SECONDS, saving) == "hello"
    assert run.only("http")["outcome"] == "ok"


async def test_an_answer_that_is_complete_when_the_abort_comes_stays_ok(
    run: AgentRun, library: Any
) -> None:
    """A transport that is no socket's, such as a fake, can't be cut either."""

    def answer(request: Any) -> Any:
        run.stop("abort")
        return library.Response(200, text="late")

    transport = guarded_transport(library.MockTransport(answer))
    with library.Client(transport=transport) as client:
        assert run.call(client.get, "http://x/").text == "late"
    assert run.only("http")["outcome"] == "ok"
