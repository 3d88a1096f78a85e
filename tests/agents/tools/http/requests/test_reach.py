"""``tools.http`` reaches public addresses, and what the operator allows."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import traceback
from collections.abc import Sequence
from typing import Any

import httpx
import httpx2
import pytest

from agents.exceptions import AddressRefused, AgentError, InvalidAddress
from agents.tools.http import addresses
from agents.tools.http.client import (
    Transports,
    close_clients,
    guarded_transport,
    open_client,
    open_sync_client,
    public_only,
)
from agents.tools.http.connections import AsyncTransport
from agents.values.addresses import AllowList, Reach
from tests.support.agent_run import AgentRun, waiter
from tests.support.page_server import PageServer

PAGES: dict[str, tuple[dict[str, Any], bytes]] = {"/": ({}, b"hello"), "/secret": ({}, b"secret")}


class Client:
    """``tools.http`` of one kind of agent, in a run of its own."""

    def __init__(self, kind: str, reach: Reach) -> None:
        self.run = AgentRun()
        self._kind = kind
        self._transports = Transports(reach)

    async def get(self, url: str, **options: Any) -> httpx.Response:
        if self._kind == "async":
            client = open_client(self.run.guard, self._transports)
            return await self.run.task(client.get(url, **options))
        sync_client = open_sync_client(self.run.guard, self._transports, waiter())
        return await asyncio.to_thread(self.run.call, lambda: sync_client.get(url, **options))

    async def close(self) -> None:
        await close_clients(self.run.guard)
        await self._transports.aclose()
        assert self.run.trace.in_flight() == []


@pytest.fixture(params=["async", "sync"])
async def reaching(request: pytest.FixtureRequest) -> Any:
    clients = []

    def make(*allowed: str, proxy_url: str = "") -> Client:
        client = Client(request.param, Reach(AllowList(allowed), proxy_url))
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names of tests, and where they lead; the real resolver knows the rest."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host in table:
            return [entry for to in table[host] for entry in real(to, *args, **options)]
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


async def test_loopback_is_refused_and_the_refusal_is_logged(reaching: Any) -> None:
    client = reaching()
    with PageServer(PAGES) as server:
        with pytest.raises(httpx.ConnectError, match="AGENTS_HTTP_ALLOW") as caught:
            await client.get(server.url)
        assert server.requests == []

    assert isinstance(caught.value, AddressRefused)
    assert isinstance(caught.value, httpx2.ConnectError)
    event = client.run.only("http")
    assert (event["outcome"], event["error"]["type"]) == ("error", "AddressRefused")


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "*", "localhost", "0.0.0.0/0"])
async def test_what_is_allowed_is_reached(reaching: Any, entry: str) -> None:
    client = reaching(entry)
    with PageServer(PAGES) as server:
        url = server.url.replace("127.0.0.1", "localhost") if entry == "localhost" else server.url
        assert (await client.get(url)).text == "hello"


async def test_a_connection_is_used_again(reaching: Any) -> None:
    client = reaching("127.0.0.1")
    with PageServer(PAGES) as server:
        answers = [await client.get(server.url) for _ in range(3)]

    streams = [answer.extensions["network_stream"] for answer in answers]
    assert len({id(stream) for stream in streams}) == 1


async def test_a_redirect_inside_is_refused(reaching: Any) -> None:
    client = reaching("127.0.0.1")
    with PageServer(dict(PAGES), host="127.0.0.2") as inside:
        moved = {":status": 302, "Location": f"{inside.url}/secret"}
        with PageServer({"/": (moved, b"")}) as server, pytest.raises(AddressRefused):
            await client.get(server.url, follow_redirects=True)
        assert inside.requests == []


async def test_the_address_that_was_checked_is_connected_to(
    reaching: Any, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DNS answers differently the second time, and is not asked a second time."""
    client = reaching("127.0.0.1")
    names["rebound.test"] = ["127.0.0.1"]
    asked = []
    admit = addresses.admit

    def admit_and_rebind(host: str, *args: Any) -> list[str]:
        asked.append(host)
        names["rebound.test"] = ["127.0.0.2"]
        return admit(host, *args)

    monkeypatch.setattr(addresses, "admit", admit_and_rebind)
    with PageServer(PAGES) as server:
        url = server.url.replace("127.0.0.1", "rebound.test")
        assert (await client.get(url)).text == "hello"
        assert "Host: rebound.test:" in server.requests[0]
        with pytest.raises(AddressRefused):
            await client.get(url.replace("rebound.test", "127.0.0.2"))
    assert asked == ["rebound.test", "127.0.0.2"]


async def test_the_owner_does_not_learn_an_internal_address(
    reaching: Any, names: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    names["intranet.test"] = ["10.11.12.13"]
    names["down.test"] = ["127.0.0.9"]
    client = reaching("127.0.0.9")

    texts = []
    with caplog.at_level(logging.INFO, "agents"):
        for url in ("http://intranet.test/", "http://down.test:9/"):
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(url)
            texts.append("".join(traceback.format_exception(caught.value)))

    told = "".join(texts) + str([event.data for event in client.run.sink.events])
    assert "10.11.12.13" not in told
    assert "127.0.0.9" not in told
    assert "down.test:9 can't be connected to" in texts[1]
    assert "10.11.12.13" in caplog.text  # the operator may know


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://example.org:99999/", InvalidAddress),
        ("http://example.org:0/", InvalidAddress),
        ("http://example.org:-1/", InvalidAddress),
        ("http://example.org:port/", InvalidAddress),
        ("http://", InvalidAddress),
        ("http:///path", InvalidAddress),
        ("http://:80/", InvalidAddress),
        ("http://user@/", InvalidAddress),
        ("", InvalidAddress),
        ("example.org/path", InvalidAddress),
        ("//example.org/", InvalidAddress),
        ("http://exa mple.org/", InvalidAddress),
        ("http://example..org/", InvalidAddress),
        ("http://.example.org/", InvalidAddress),
        (f"http://{'x' * 64}.org/", InvalidAddress),
        (f"http://{'x.' * 200}org/", InvalidAddress),
        ("http://[::1/", InvalidAddress),
        ("http://[v1.x]/", InvalidAddress),
        ("http://::1/", InvalidAddress),
        ("http://300.1.1.1/", InvalidAddress),
        ("http://xn--/", InvalidAddress),
        ("http://xn--a/", InvalidAddress),
        ("http://\u2488.example/", InvalidAddress),
        ("http://☃☃☃\ud800.org/", InvalidAddress),
        ("http://example.org\x00/", InvalidAddress),
        ("http://example.org/\r\nHost: x", InvalidAddress),
        ("http://example.org/" + "x" * 100_000, InvalidAddress),
        ("http://127%2e0.0.1/", InvalidAddress),
        ("http://a\\b/", InvalidAddress),
        ("http://<script>/", InvalidAddress),
        ("file:///etc/passwd", InvalidAddress),
        ("data:text/plain,x", InvalidAddress),
        ("ftp://example.org/", AddressRefused),
        ("gopher://127.0.0.1:6379/_x", AddressRefused),
        ("javascript:alert(1)", InvalidAddress),
        ("mailto:a@example.org", InvalidAddress),
        ("unix:///var/run/docker.sock", InvalidAddress),
    ],
)
async def test_what_is_no_address_is_an_error_of_ours(
    reaching: Any, url: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await reaching("*").get(url)
    assert isinstance(caught.value, AgentError)
    assert isinstance(caught.value, httpx.HTTPError)  # what careful callers catch
    assert len(str(caught.value)) < 500


async def test_a_name_that_does_not_exist_is_a_failed_connection(reaching: Any) -> None:
    with pytest.raises(httpx.ConnectError, match=r"nothing\.invalid can't be found"):
        await reaching().get("http://nothing.invalid/")


async def test_an_address_that_does_not_answer_takes_a_part_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first address of the name is silent, the second one answers."""
    silent = socket.socket()
    silent.bind(("127.0.0.3", 0))
    silent.listen(0)
    port = silent.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:  # the queue of connections is full
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.3", port))
    monkeypatch.setattr("agents.tools.http.connections.ATTEMPT_SECONDS", 0.2)

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.3", "127.0.0.1"]

    transport = AsyncTransport(Reach(AllowList(["*"])), resolver=resolver)
    answering = socket.create_server(("127.0.0.1", port))
    answering.close()
    server = await asyncio.start_server(_answer, "127.0.0.1", port)
    try:
        async with httpx.AsyncClient(transport=transport, timeout=5) as client:
            assert (await client.get(f"http://two.test:{port}/")).text == "hello"
    finally:
        server.close()
        await server.wait_closed()
        for sock in (silent, *fillers):
            sock.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    writer.close()


# --- through a proxy


async def test_requests_go_through_the_proxy_which_resolves_names(reaching: Any) -> None:
    with PageServer({"/path": ({}, b"by the proxy")}) as proxy:
        client = reaching(proxy_url=proxy.url.replace("//", "//user:pass@"))
        answer = await client.get("http://only-the-proxy-knows.test/path")

    assert answer.text == "by the proxy"
    assert "GET http://only-the-proxy-knows.test/path" in proxy.requests[0]
    assert "Proxy-Authorization: Basic dXNlcjpwYXNz" in proxy.requests[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "a.localhost.", "[::ffff:10.0.0.1]"]
)
async def test_a_spelled_address_is_checked_before_the_proxy_is_asked(
    reaching: Any, host: str
) -> None:
    with PageServer({"/": ({}, b"by the proxy")}) as proxy:
        client = reaching("10.0.0.2", proxy_url=proxy.url)
        with pytest.raises(AddressRefused):
            await client.get(f"http://{host}/")
        assert proxy.requests == []
        assert (await client.get("http://10.0.0.2/")).text == "by the proxy"


# --- for transports of agents' own


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_transport_of_one_s_own_is_checked_if_asked(library: Any) -> None:
    run = AgentRun()
    with PageServer(PAGES) as server:
        async with library.AsyncClient(
            transport=guarded_transport(library.AsyncHTTPTransport(), public_only=True)
        ) as client:
            with pytest.raises(library.ConnectError) as caught:
                await run.task(client.get(server.url))
            assert isinstance(caught.value, AddressRefused)
            run.guard.reach = Reach(AllowList(["127.0.0.1"]))  # what the host of the run allows
            assert (await run.task(client.get(server.url))).text == "hello"

        with library.Client(
            transport=guarded_transport(library.HTTPTransport(), public_only=True)
        ) as sync_client:
            get = lambda: run.call(sync_client.get, server.url)  # noqa: E731
            assert (await asyncio.to_thread(get)).text == "hello"
            run.guard.reach = Reach()
            with pytest.raises(AddressRefused):
                await asyncio.to_thread(get)


async def test_public_only_takes_what_the_host_of_the_run_allows() -> None:
    run = AgentRun()
    run.guard.reach = Reach(AllowList(["127.0.0.1"]))

    async def agent(url: str) -> str:
        async with httpx.AsyncClient(transport=guarded_transport(public_only())) as client:
            return (await client.get(url)).text

    with PageServer(PAGES) as server:
        assert await run.task(agent(server.url)) == "hello"
        with pytest.raises(AddressRefused):
            await agent(server.url)


def test_certificates_are_checked_for_the_name() -> None:
    """Not for the address: the pool of httpx gets the name, and hands it to TLS."""
    transport: Any = AsyncTransport(Reach())
    context = transport._pool._ssl_context

    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
