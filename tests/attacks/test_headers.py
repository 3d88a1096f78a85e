"""Headers that clients make up: X-Forwarded-*, Host and Origin, with real servers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from django.http import HttpRequest, JsonResponse
from django.urls import re_path
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from runs.asgi.handler import Handler
from runs.ops import logs
from runs.ops.serving import configuration
from runs.web import sockets
from tests.support.nginx import HOST, proxying

FORGED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "evil.example.net",
    "X-Forwarded-Port": "443",
    "X-Forwarded-Ssl": "on",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https;host=evil.example.net",
    "Front-End-Https": "on",
}


def echo(request: HttpRequest) -> JsonResponse:
    _ = request.POST, request.COOKIES  # parsed when they are first read
    return JsonResponse(
        {
            "scheme": request.scheme,
            "is_secure": request.is_secure(),
            "address": request.META["REMOTE_ADDR"],
            "host": request.get_host().partition(":")[0],
        }
    )


echo.csrf_exempt = True  # type: ignore[attr-defined]
urlpatterns = [re_path("", echo)]


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await Handler()(scope, receive, send)
        return
    await receive()
    try:
        await sockets.enter(scope, None)
    except sockets.Refused as why:
        await sockets.refuse(scope, send, why)
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})


class _Hub:
    async def read(self, *_: Any, **__: Any) -> str:
        return "a viewer"


@pytest.fixture(autouse=True)
def site(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = [HOST]
    monkeypatch.setattr("runs.web.feed.get_hub", _Hub)


@asynccontextmanager
async def serving(*, trusted: list[str]) -> AsyncIterator[int]:
    from django.conf import settings

    settings.FORWARDED_ALLOW_IPS = trusted
    config = configuration(f"{__name__}.application")
    config.lifespan = "off"
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def restored(settings: Any) -> None:
    settings.FORWARDED_ALLOW_IPS = settings.FORWARDED_ALLOW_IPS


@pytest.mark.usefixtures("restored")
class TestForwarded:
    async def test_headers_of_a_client_that_is_no_proxy_are_not_believed(self) -> None:
        async with serving(trusted=["10.9.9.0/24", "::1"]) as port, httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/", headers={"Host": HOST, **FORGED})
        assert answer.json() == {
            "scheme": "http",
            "is_secure": False,
            "address": "127.0.0.1",
            "host": HOST,
        }

    @pytest.mark.parametrize(
        ("proto", "address", "expected"),
        [
            ("https", "203.0.113.9", ("https", "203.0.113.9")),
            ("http", "203.0.113.9", ("http", "203.0.113.9")),
            # The last one that is no proxy: the first ones are the client's own invention.
            ("https", "1.2.3.4, 203.0.113.9", ("https", "203.0.113.9")),
            ("https", "1.2.3.4, 203.0.113.9, 127.0.0.1", ("https", "203.0.113.9")),
            ("https, http", "203.0.113.9", ("http", "203.0.113.9")),
            ("javascript", "203.0.113.9", ("http", "203.0.113.9")),
        ],
    )
    async def test_two_headers_of_a_proxy_are_and_no_others(
        self, proto: str, address: str, expected: tuple[str, str]
    ) -> None:
        given = {"Host": HOST, **FORGED, "X-Forwarded-Proto": proto, "X-Forwarded-For": address}
        async with serving(trusted=["127.0.0.1"]) as port, httpx.AsyncClient() as client:
            answer = (await client.get(f"http://127.0.0.1:{port}/", headers=given)).json()
        assert (answer["scheme"], answer["address"]) == expected
        assert answer["is_secure"] == (expected[0] == "https")
        assert answer["host"] == HOST

    @pytest.mark.parametrize("proto", ["https", "wss"])  # nginx says the one, Traefik the other
    async def test_a_proxy_that_speaks_tls_lets_the_site_s_own_sockets_in(self, proto: str) -> None:
        async with serving(trusted=["127.0.0.1"]) as port:
            given = {"X-Forwarded-Proto": proto}
            assert await _opens(f"ws://{HOST}", port, None, f"https://{HOST}", **given)
            assert not await _opens(f"ws://{HOST}", port, None, f"http://{HOST}", **given)
            assert not await _opens(f"ws://{HOST}", port, None, f"https://{HOST}")
            assert await _opens(f"ws://{HOST}", port, None, f"http://{HOST}")


@pytest.mark.usefixtures("restored")
class TestBehindNginx:
    async def test_what_a_client_says_of_itself_is_replaced(self, tmp_path: Path) -> None:
        async with serving(trusted=["127.0.0.1"]) as port:
            with await _nginx(tmp_path, port) as proxy:
                async with httpx.AsyncClient(verify=proxy.trust) as client:
                    for given in ({}, FORGED, {**FORGED, "X-Forwarded-Proto": "http"}):
                        answer = await client.get(
                            f"https://127.0.0.1:{proxy.port}/", headers={"Host": HOST, **given}
                        )
                        assert answer.json() == {
                            "scheme": "https",
                            "is_secure": True,
                            "address": "127.0.0.1",
                            "host": HOST,
                        }

    async def test_a_socket_needs_an_origin_of_its_own_scheme_host_and_port(
        self, tmp_path: Path
    ) -> None:
        async with serving(trusted=["127.0.0.1"]) as port:
            with await _nginx(tmp_path, port) as proxy:
                own = f"{HOST}:{proxy.port}"
                assert await _opens(f"wss://{own}", proxy.port, proxy.trust, f"https://{own}")
                for origin in (
                    f"http://{own}",
                    f"https://{HOST}",
                    f"http://{HOST}:{proxy.plain_port}",
                    f"https://evil.example.net:{proxy.port}",
                ):
                    assert not await _opens(f"wss://{own}", proxy.port, proxy.trust, origin), origin
                    forged = {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example.net"}
                    assert not await _opens(
                        f"wss://{own}", proxy.port, proxy.trust, origin, **forged
                    ), origin

    async def test_an_address_may_try_few_passwords_and_stop_as_often_as_it_likes(
        self, tmp_path: Path
    ) -> None:
        async with serving(trusted=["127.0.0.1"]) as port:
            with await _nginx(tmp_path, port) as proxy:
                base = f"https://127.0.0.1:{proxy.port}"
                async with httpx.AsyncClient(
                    verify=proxy.trust, base_url=base, headers={"Host": HOST}
                ) as client:

                    async def post(path: str) -> httpx.Response:
                        return await client.post(path)

                    began = time.monotonic()
                    paths = ("/api-token", "/accounts/login/", "/admin/login/")
                    tries = await asyncio.gather(*(post(path) for path in paths * 15))
                    tried = time.monotonic() - began
                    counts = Counter(one.status_code for one in tries)
                    assert set(counts) == {200, 429}
                    # All three doors share one count, which goes down by one each two seconds.
                    assert 21 <= counts[200] <= 21 + tried / 2
                    refused = {one.url.path: one for one in tries if one.status_code == 429}
                    assert set(refused) == set(paths)
                    for one in refused.values():
                        assert one.json()["code"] == "throttled"
                        assert int(one.headers["Retry-After"]) > 0
                    for path in ("/runs/01890b6f-6b7f-7cc3-a1b2-8a5d3a1c9f10/stop", "/runs/stop"):
                        stops = [await post(path) for _ in range(5)]
                        assert {stop.status_code for stop in stops} == {200}
                    assert (await client.get("/runs")).status_code == 200


async def _nginx(folder: Path, port: int) -> Any:
    """Start nginx in a thread: it takes a moment, and the loop has to serve."""
    return await asyncio.to_thread(_Entered, proxying(folder, [port]))


class _Entered:
    """A context manager that was entered already."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._value = manager.__enter__()

    def __enter__(self) -> Any:
        return self._value

    def __exit__(self, *why: Any) -> None:
        self._manager.__exit__(*why)


async def _opens(
    url: str, port: int, trust: ssl.SSLContext | None, origin: str, **headers: str
) -> bool:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setblocking(False)
    cookie = {"Cookie": "sessionid=abc"}
    try:
        async with connect(
            f"{url}/ws/runs",
            sock=connection,
            ssl=trust,
            origin=origin,  # type: ignore[arg-type]
            additional_headers=cookie | headers,
        ):
            return True
    except InvalidStatus:
        return False


@pytest.fixture
def written(settings: Any) -> Callable[[], str]:
    """Capture what settings.LOGGING writes; return a function that returns the text."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    console = settings.LOGGING["handlers"]["console"]
    for name in console["filters"]:
        handler.addFilter(_made(settings.LOGGING["filters"][name]["()"]))
    handler.setFormatter(logs.PlainLines())
    logging.getLogger().addHandler(handler)
    yield stream.getvalue
    logging.getLogger().removeHandler(handler)


def _made(name: str) -> Any:
    return getattr(logs, name.rpartition(".")[2])()


HOSTS = [
    *("evil.example.net", "127.0.0.1", f"{HOST}.evil.net", f"evil.net#{HOST}", f"{HOST}@evil.net"),
    *("", "a" * 3000, "[::1", f"{HOST}:port", "\u00e9vil", "evil.net\tERROR forged"),
]


async def test_a_foreign_host_is_one_plain_line_without_the_host(
    written: Callable[[], str], restored: None
) -> None:
    async with serving(trusted=["127.0.0.1"]) as port:
        for number, host in enumerate(HOSTS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET /runs/{number} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            assert b" 400 " in answer.partition(b"\r\n")[0], host
            if b"{" in answer:
                body = answer[answer.index(b"{") : answer.rindex(b"}") + 1]
                assert json.loads(body)["code"] == "bad_request"
    text = written()
    assert "Traceback" not in text
    assert "evil" not in text
    assert "forged" not in text
    assert "DJANGO_ALLOWED_HOSTS" in text
    of_hosts = [line for line in text.splitlines() if "DisallowedHost" in line]
    assert len(of_hosts) <= len(HOSTS)
    assert all(len(line) < 200 for line in of_hosts)


FORM = b"POST / HTTP/1.1\r\nHost: halting.example.org\r\nContent-Length: 6\r\nContent-Type: "
ODD = [
    *(
        b"GET /\xff\xfe HTTP/1.1",
        b"GET /%ff%00%0a HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET * HTTP/1.1",
    ),
    *(b"OPTIONS * HTTP/1.1", b"CONNECT evil.net:443 HTTP/1.1", b"GET http://evil.net/ HTTP/1.1"),
    *(b"PRI * HTTP/2.0", b"GET /", b"TRACE / HTTP/1.1", b"\x16\x03\x01\x02\x00\x01", b"A" * 5000),
    *(
        b"GET / HTTP/1.1\r\nContent-Length: -1",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
    ),
    *(
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip",
        b"GET / HTTP/1.1\r\nX\xff: y",
        b"GET / HTTP/1.1\r\nX : y",
    ),
    *(
        b"GET / HTTP/1.1\r\nCookie: \xff\xfe; ;=;a=\x80",
        b"GET / HTTP/1.1\r\nX: a\x00b",
        b"GET /?%ff=%fe&=& HTTP/1.1",
    ),
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: no",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99",
    FORM + b"multipart/form-data",
    FORM + b"multipart/form-data; boundary=\xff",
    FORM + b"multipart/form-data; boundary=x",
    FORM + b"application/x-www-form-urlencoded; charset=nothing",
    FORM + b"text/plain; charset=\x00",
    FORM + b"\xff/\xfe",
]


async def test_an_odd_request_leaves_no_traceback(
    written: Callable[[], str], restored: None
) -> None:
    async with serving(trusted=["127.0.0.1"]) as port:
        for odd in ODD:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            host = b"" if b"Host" in odd else f"Host: {HOST}\r\n".encode()
            writer.write(odd + b"\r\n" + host + b"Connection: close\r\n\r\n" + b"\xff" * 6)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            writer.close()
            assert b" 500 " not in answer.partition(b"\r\n")[0], odd
            assert "Traceback" not in written(), odd
            assert all(line.isprintable() for line in written().splitlines()), odd
