"""Only public addresses are visited, by whatever name or redirect."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import httpx
import pytest

from agents.exceptions import AddressRefused
from agents.tools.http.addresses import is_public
from agents.tools.http.client import guarded_transport, public_only
from tests.support.agent_run import AgentRun
from tests.support.llm_server import LLMServer

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "2a00:1450:4001::200e"]
PUBLIC += ["::ffff:8.8.8.8", "2002:0808:0808::1", "64:ff9b::808:808"]
NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.8.9.1
169.254.169.254
172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::7f00:1 ::127.0.0.1 fe80::1 fe80::1%eth0 febf::1 fec0::1 fc00::1 fd00:ec2::254
ff02::1 ff0e::1
2001:db8::1 2001::1 2001:10::1 3fff::1 100::1 5f00::1 4000::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:100.64.0.1
2002:7f00:1::1 2002:a9fe:a9fe::1 2002:0a00:1::
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808
""".split()  # noqa: SIM905 - a table


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


class Inner:
    """Answers for every address, and notes what was asked."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response] | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer or (lambda request: httpx.Response(200, text="hello"))
        self.transport = httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)


class Names:
    """A resolver with a table; each name gives its answers in turn, the last one for ever."""

    def __init__(self, **table: Sequence[Sequence[str]]) -> None:
        self.table = {name.replace("_", "."): list(answers) for name, answers in table.items()}
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        answers = self.table[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def client(inner: Inner, names: Names | None = None) -> httpx.AsyncClient:
    transport = public_only(inner.transport, resolver=names)
    return httpx.AsyncClient(transport=transport, follow_redirects=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::]",
        "0.0.0.0",
        "0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
    ],
)
async def test_loopback_is_refused_however_it_is_spelled(host: str) -> None:
    inner = Inner()
    async with client(inner) as http:
        with pytest.raises(AddressRefused, match="may not be visited"):
            await http.get(f"http://{host}/")
    assert inner.requests == []


async def test_a_public_name_is_visited_at_the_address_that_was_looked_at() -> None:
    inner, names = Inner(), Names(example_org=[["93.184.216.34"]])
    async with client(inner, names) as http:
        answer = await http.get("https://example.org:8443/path?q=1", headers={"X-Mine": "1"})
    assert answer.text == "hello"
    assert str(answer.url) == "https://example.org:8443/path?q=1"
    (sent,) = inner.requests
    assert str(sent.url) == "https://93.184.216.34:8443/path?q=1"
    assert sent.headers["host"] == "example.org:8443"
    assert sent.headers["x-mine"] == "1"
    assert sent.headers["connection"] == "close"
    assert sent.extensions["sni_hostname"] == "example.org"  # what certificates are checked for
    assert names.asked == [("example.org", 8443)]


async def test_a_name_with_one_address_that_is_not_public_is_refused() -> None:
    inner, names = Inner(), Names(mixed_org=[["93.184.216.34", "10.0.0.1"]])
    async with client(inner, names) as http:
        with pytest.raises(AddressRefused, match=r"mixed\.org may not be visited") as caught:
            await http.get("http://mixed.org/")
    assert "10.0.0.1" not in "".join(traceback.format_exception(caught.value))
    assert inner.requests == []


async def test_a_second_answer_of_the_dns_does_not_win() -> None:
    inner = Inner()
    names = Names(rebound_org=[["93.184.216.34"], ["127.0.0.1"]])
    async with client(inner, names) as http:
        await http.get("http://rebound.org/")
        with pytest.raises(AddressRefused):
            await http.get("http://rebound.org/")
    assert [request.url.host for request in inner.requests] == ["93.184.216.34"]
    assert len(names.asked) == 2  # asked once for each request, and what was looked at was used


@pytest.mark.parametrize("where", ["http://127.0.0.1/", "http://inside.org/", "//[::1]/"])
async def test_a_redirect_does_not_lead_inside(where: str) -> None:
    inner = Inner(lambda request: httpx.Response(302, headers={"Location": where}))
    names = Names(example_org=[["93.184.216.34"]], inside_org=[["192.168.1.1"]])
    names.table.update({"127.0.0.1": [["127.0.0.1"]], "::1": [["::1"]]})
    async with client(inner, names) as http:
        with pytest.raises(AddressRefused):
            await http.get("http://example.org/")
    assert len(inner.requests) == 1


async def test_a_redirect_to_another_public_name_is_followed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["host"] == "a.org":
            return httpx.Response(302, headers={"Location": "https://b.org/there"})
        return httpx.Response(200, text="there")

    inner, names = Inner(answer), Names(a_org=[["8.8.8.8"]], b_org=[["2606:2800:220:1::1"]])
    async with client(inner, names) as http:
        answered = await http.get("http://a.org/")
    assert (answered.text, str(answered.url)) == ("there", "https://b.org/there")
    assert str(inner.requests[1].url) == "https://[2606:2800:220:1::1]/there"


async def test_another_address_is_tried_when_one_can_not_be_reached() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "8.8.8.8":
            raise httpx.ConnectError("no route")
        return httpx.Response(200, text="hello")

    inner, names = Inner(answer), Names(a_org=[["8.8.8.8", "8.8.4.4"]])
    async with client(inner, names) as http:
        assert (await http.post("http://a.org/", content=b"body")).text == "hello"
    assert [request.url.host for request in inner.requests] == ["8.8.8.8", "8.8.4.4"]


async def test_a_name_without_an_address_can_not_be_connected_to() -> None:
    async def nothing(host: str, port: int) -> list[str]:
        return []

    async def fails(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    for resolver in (nothing, fails):
        transport = public_only(Inner().transport, resolver=resolver)
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(httpx.ConnectError, match=r"a\.org can't be found"):
                await http.get("http://a.org/")


async def test_only_http_is_spoken() -> None:
    transport = public_only(Inner().transport)
    with pytest.raises(AddressRefused, match="only http and https"):
        await transport.handle_async_request(httpx.Request("GET", "ftp://example.org/"))


async def test_international_names_are_asked_for_as_the_dns_knows_them() -> None:
    inner, names = Inner(), Names()
    names.table["xn--bcher-kva.example"] = [["8.8.8.8"]]
    async with client(inner, names) as http:
        await http.get("http://bücher.example/")
    assert inner.requests[0].headers["host"] == "xn--bcher-kva.example"
    assert inner.requests[0].extensions["sni_hostname"] == "xn--bcher-kva.example"


async def test_a_refusal_is_recorded_as_the_error_of_the_call() -> None:
    run = AgentRun()
    async with httpx.AsyncClient(transport=guarded_transport(public_only())) as http:
        with pytest.raises(AddressRefused):
            await run.task(http.get("http://localhost/secret"))
    event = run.only("http")
    assert (event["outcome"], event["error"]["type"]) == ("error", "AddressRefused")
    assert "secret" not in str(event)


async def test_a_real_server_on_loopback_is_not_reached() -> None:
    with LLMServer() as server:
        async with httpx.AsyncClient(transport=public_only()) as http:
            with pytest.raises(AddressRefused):
                await http.get(server.url)
        assert server.opened_count == 0
