"""Agents that are led into the network that they run in: by spellings, names and redirects."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agents.exceptions import AddressRefused, AgentError, DocumentError
from agents.samples.documents import read_document
from agents.tools.http.client import Transports, close_clients, open_client, open_sync_client
from agents.values.addresses import AllowList, Reach
from tests.support.agent_run import AgentRun, waiter, within
from tests.support.page_server import PageServer

#: %s is a port on which a server with a secret listens, on every address of loopback.
LOOPBACK = """
http://127.0.0.1:%s/ http://127.1:%s/ http://2130706433:%s/ http://0x7f000001:%s/
http://0x7f.0.0.1:%s/ http://0177.0.0.1:%s/ http://017700000001:%s/ http://127.0.0.1.:%s/
http://127.255.255.254:%s/ http://0.0.0.0:%s/ http://0:%s/ http://localhost:%s/
http://LOCALHOST.:%s/ http://[::1]:%s/ http://[::]:%s/ http://[::ffff:127.0.0.1]:%s/
http://[::ffff:7f00:1]:%s/ http://[::127.0.0.1]:%s/ http://[0:0:0:0:0:ffff:127.0.0.1]:%s/
http://[64:ff9b::7f00:1]:%s/ http://[2002:7f00:1::]:%s/ http://user:pw@127.0.0.1:%s/
http://example.org@127.0.0.1:%s/ http://127.0.0.1:%s/?example.org
""".split()  # noqa: SIM905 - a table
ELSEWHERE = """
http://169.254.169.254/latest/meta-data/ http://[fd00:ec2::254]/ http://100.100.100.200/
http://192.0.0.192/ http://168.63.129.16/ http://10.0.0.1/ http://172.16.0.1/ http://192.168.0.1/
http://100.64.0.1/ http://224.0.0.1/ http://255.255.255.255/ http://240.0.0.1/
http://[fe80::1]/ http://[fc00::1]/ http://[ff02::1]/ http://[2001::1]/ http://[::ffff:10.0.0.1]/
http://[2002:a00:1::]/ http://[64:ff9b::a9fe:a9fe]/ http://[fe80::1%25eth0]/
""".split()  # noqa: SIM905 - a table


@pytest.fixture(scope="module")
def secret() -> Iterator[PageServer]:
    with PageServer({"/": ({}, b"the secret")}, host="0.0.0.0") as server:
        yield server
        assert server.requests == [], "a request got in"


async def ask_all(url: str, reach: Reach = Reach()) -> list[BaseException | Any]:  # noqa: B008
    """Send all kinds of agents to an address; return their errors, or the answers that they got."""
    run, transports = AgentRun(), Transports(reach)
    client = open_client(run.guard, transports)
    sync_client = open_sync_client(run.guard, transports, waiter())
    try:
        return await asyncio.gather(
            run.task(client.get(url, follow_redirects=True)),
            asyncio.to_thread(run.call, lambda: sync_client.get(url, follow_redirects=True)),
            run.task(read_document(url)),
            return_exceptions=True,
        )
    finally:
        await close_clients(run.guard)
        await transports.aclose()


async def assert_refused(url: str, reach: Reach = Reach()) -> None:  # noqa: B008
    for end in await ask_all(url, reach):
        # A spelling that httpx or this system's resolver does not know leads nowhere: that will do.
        nowhere = "can't be visited" in str(end) or "can't be found" in str(end)
        assert isinstance(end, AddressRefused) or (
            isinstance(end, AgentError | httpx.ConnectError) and nowhere
        ), f"{url}: {end!r}"


async def test_loopback_is_out_of_reach_however_it_is_spelled(secret: PageServer) -> None:
    for url in LOOPBACK:
        await assert_refused(url.replace("%s", str(secret.port)))


async def test_special_addresses_are_out_of_reach() -> None:
    for url in ELSEWHERE:
        await assert_refused(url)


@pytest.mark.parametrize("hops", [1, 3])
async def test_no_redirect_leads_inside(secret: PageServer, hops: int) -> None:
    inside = Reach(AllowList(["127.0.0.7"]))  # stands for a public address
    targets = [*(f"/{hop}" for hop in range(1, hops)), f"http://127.0.0.1:{secret.port}/"]
    pages = {
        f"/{hop or ''}": ({":status": 302, "Location": target}, b"")
        for hop, target in enumerate(targets)
    }
    with PageServer(pages, host="127.0.0.7") as server:
        ends = await ask_all(server.url, inside)
        assert len(server.requests) == 2 * hops  # read_document has no such rights
    assert all(isinstance(end, AddressRefused) for end in ends), ends


async def test_a_silent_server_of_names_delays_its_owner_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each look-up keeps a thread that nothing can end; others need threads as well."""
    answers = threading.Event()
    loop, asked = asyncio.get_running_loop(), asyncio.Semaphore(0)

    def getaddrinfo(host: object, *args: object, **options: object) -> list[object]:
        if host == "silent.test":
            loop.call_soon_threadsafe(asked.release)
            answers.wait(60)
        raise socket.gaierror(f"{host!r} has no address")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    attacker, other = AgentRun(), AgentRun()
    attacker.guard.owner, other.guard.owner = "attacker", "other"
    try:
        looking = [attacker.task(read_document("http://silent.test/")) for _ in range(20)]
        for _ in range(4):
            await within(10, asked.acquire())

        with pytest.raises(DocumentError, match="can't be found"):
            await within(5, other.task(read_document("http://other.test/")))
        assert await within(5, other.task(read_document("data:text/plain,mine"))) == "mine"
    finally:
        answers.set()
        await asyncio.gather(*looking, return_exceptions=True)
