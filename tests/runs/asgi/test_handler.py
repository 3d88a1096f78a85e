"""How a request comes from the event loop to a view and back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from asgiref.sync import SyncToAsync
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.http import FileResponse, HttpRequest, HttpResponse
from django.urls import path, reverse

from runs.asgi import bodies, patience
from runs.asgi.handler import Handler, ProbeHandler

urlpatterns: list[Any] = []


def address(view: Any) -> Any:
    urlpatterns[:] = [path("here", view)]
    return view


async def ask(
    path: str = "/here", *, method: str = "GET", by: type[Handler] = Handler, **more: Any
) -> httpx.Response:
    transport = httpx.ASGITransport(by())  # type: ignore[arg-type]  # ASGI, in other words
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return await client.request(method, path, **more)


async def test_a_request_goes_to_its_thread_once(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROOT_URLCONF = __name__
    trips: list[str] = []
    original = SyncToAsync.__call__

    async def counted(self: Any, *arguments: Any, **rest: Any) -> Any:
        trips.append(getattr(self.func, "__name__", ""))
        return await original(self, *arguments, **rest)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)

    @address
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(threading.current_thread().name)

    response = await ask()
    assert response.status_code == 200
    assert response.text != threading.main_thread().name
    assert "Content-Security-Policy" in response.headers
    # The others are Django's signals before and after the request.
    assert trips == ["sync_send", "get_response", "close"]


async def test_a_file_of_a_view_is_read_in_threads(settings: Any, tmp_path: Any) -> None:
    settings.ROOT_URLCONF = __name__
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 1_000)
    read_by: set[threading.Thread] = set()

    class Noting:
        def __init__(self) -> None:
            self._file = file.open("rb")

        def read(self, size: int) -> bytes:
            read_by.add(threading.current_thread())
            return self._file.read(size)

        def close(self) -> None:
            self._file.close()

    @address
    def view(request: HttpRequest) -> FileResponse:
        return FileResponse(Noting())

    response = await ask()
    assert response.content == file.read_bytes()
    assert threading.current_thread() not in read_by


class _Unread:
    """A client that reads an answer as far as it is told to."""

    def __init__(self, by: Handler) -> None:
        self._may_read = asyncio.Event()
        self.body = b""
        self.task = asyncio.create_task(by(_SCOPE, self._receive, self._send))

    async def _receive(self) -> Any:
        if not self.body:
            self.body = b" "
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Event().wait()

    async def _send(self, message: Any) -> None:
        self.body += message.get("body", b"")
        if message.get("more_body"):
            await self._may_read.wait()

    def read(self) -> None:
        self._may_read.set()


_SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/here",
    "query_string": b"",
    "headers": [(b"host", b"testserver")],
}


async def test_a_large_answer_that_is_not_read_keeps_no_thread(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__

    @address
    def view(request: HttpRequest) -> HttpResponse:
        threads.append(threading.current_thread())
        return HttpResponse("x" * 200_000)

    threads: list[threading.Thread] = []
    unread = _Unread(Handler())
    async with asyncio.timeout(20):
        while len(unread.body) < 60_000 or threads[0].is_alive():
            await asyncio.sleep(0.005)
        unread.read()
        await unread.task
    assert len(unread.body.strip()) == 200_000


async def test_a_client_that_does_not_read_is_left(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROOT_URLCONF = __name__
    monkeypatch.setattr(patience, "_STUCK_SECONDS", 0.05)

    @address
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("x" * 200_000)

    by = Handler()
    unread = _Unread(by)
    async with asyncio.timeout(20):
        await unread.task
    assert len(unread.body) < 200_000
    assert by._unread._bytes == 0


async def test_much_that_is_not_read_leaves_less_time(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROOT_URLCONF = __name__
    monkeypatch.setattr(patience, "_MOST_UNREAD_BYTES", 300_000)
    monkeypatch.setattr(patience, "_HURRY_SECONDS", 0.05)

    @address
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("x" * 200_000)

    by = Handler()
    async with asyncio.timeout(20):
        first = _Unread(by)
        while len(first.body) < 60_000:
            await asyncio.sleep(0.005)
        second = _Unread(by)
        await second.task
        assert not first.task.done()
        third = _Unread(by)
        third.read()  # a client that reads gets everything
        await third.task
        assert len(third.body.strip()) == 200_000
        first.read()
        await first.task
    assert by._unread._bytes == 0


async def test_static_files_are_sent_whole(settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = False  # as in production
    response = await ask("/static/admin/css/base.css")
    assert response.status_code == 200
    assert len(response.content) == int(response.headers["Content-Length"]) > 10_000
    assert "Content-Security-Policy" in response.headers
    assert (await ask("/static/nothing.css")).status_code == 404


@pytest.mark.parametrize(("path", "status"), [("/metrics", 405), ("/elsewhere", 404)])
async def test_a_post_to_an_address_for_probes_is_refused(path: str, status: int) -> None:
    assert (await ask(path, method="POST", by=ProbeHandler)).status_code == status


async def test_a_probe_does_not_pass_the_middleware(settings: Any) -> None:
    """The site's middleware may reverse addresses, which the urlconf of probes doesn't have."""
    settings.MIDDLEWARE = ["tests.runs.asgi.test_handler.reversing"]
    assert (await ask("/health/live", by=ProbeHandler)).json() == {"status": "alive"}


def reversing(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    def answer(request: HttpRequest) -> HttpResponse:
        reverse("halting:page-home", getattr(request, "urlconf", None))
        return get_response(request)

    return answer


async def test_what_a_view_raises_is_an_answer(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__

    @address
    def view(request: HttpRequest) -> HttpResponse:
        raise ValueError("a bug")

    assert (await ask()).status_code == 500


_WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}
_PART = {"type": "http.request", "body": b"{", "more_body": True}
_GONE = {"type": "http.disconnect"}


async def _receive(
    method: str, messages: Iterable[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Return the types of messages that Django's handler receives, until there are no more."""
    left = list(messages)
    received: list[str] = []

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def handle(self: ASGIHandler, scope: Any, receive: Any, send: Any) -> None:
        while left:
            async with asyncio.timeout(0.05):
                received.append((await receive())["type"])

    monkeypatch.setattr(ASGIHandler, "handle", handle)
    try:
        await Handler()({"type": "http", "method": method, "headers": []}, receive, None)
    except TimeoutError:
        received.append("nothing")
    return received


async def test_a_post_that_arrived_whole_is_not_told_that_the_client_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await _receive("POST", [_PART, _WHOLE, _GONE], monkeypatch) == [
        "http.request",
        "http.request",
        "nothing",
    ]


async def test_a_post_that_broke_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    types = await _receive("POST", [_PART, _GONE], monkeypatch)
    assert types == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_request_that_only_reads_is_told(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = await _receive(method, [_WHOLE, _GONE], monkeypatch)
    assert types == ["http.request", "http.disconnect"]


@pytest.fixture
def _reads_all(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Django's handler read the body, at most ten bytes, and answer with its length."""
    settings.RUNS = {"MAX_INPUT_BYTES": 10}
    monkeypatch.setattr(bodies, "_MARGIN_BYTES", 0)
    monkeypatch.setattr(ASGIHandler, "handle", _read_all)


async def _read_all(self: ASGIHandler, scope: Any, receive: Any, send: Any) -> None:
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


async def _post(chunks: list[bytes], headers: dict[bytes, bytes]) -> tuple[int, bytes]:
    scope = {"type": "http", "method": "POST", "headers": list(headers.items())}
    client = ApplicationCommunicator(Handler(), scope)
    for chunk in chunks:
        await client.send_input({"type": "http.request", "body": chunk, "more_body": True})
    await client.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await client.receive_output(1)
    body = await client.receive_output(1)
    await client.wait()
    return start["status"], body["body"]


@pytest.mark.usefixtures("_reads_all")
async def test_a_body_within_the_limit_passes() -> None:
    assert await _post([b"12345", b"67890"], {b"content-length": b"10"}) == (200, b"10")
    assert await _post([b"12345", b"67890"], {}) == (200, b"10")
    assert await _post([b"12345"], {b"content-length": b"what"}) == (200, b"5")


@pytest.mark.usefixtures("_reads_all")
@pytest.mark.parametrize(
    ("chunks", "headers"),
    [
        pytest.param([b"123456", b"78901"], {b"content-length": b"11"}, id="declared"),
        pytest.param([b"123456", b"78901", b"2"], {}, id="counted"),
        pytest.param([], {b"content-length": b"11", b"expect": b"100-continue"}, id="asked first"),
    ],
)
async def test_a_body_above_the_limit_is_413(
    chunks: list[bytes], headers: dict[bytes, bytes]
) -> None:
    status, body = await _post(chunks, headers)
    assert status == 413
    assert json.loads(body) == {
        "code": "input_too_large",
        "detail": "The request's body is larger than 10 bytes.",
    }


@pytest.mark.usefixtures("_reads_all")
async def test_a_client_that_waits_for_our_word_is_refused_at_once() -> None:
    headers = [(b"content-length", b"11"), (b"expect", b"100-continue")]
    scope = {"type": "http", "method": "POST", "headers": headers}
    client = ApplicationCommunicator(Handler(), scope)
    async with asyncio.timeout(1):
        assert (await client.receive_output(1))["status"] == 413
    await client.wait()


@pytest.mark.parametrize("charset", ["base64", "rot13", "utf-16", "latin-1", "idna", "none"])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_declared_charset_changes_nothing(settings: Any, charset: str, kind: str) -> None:
    settings.ROOT_URLCONF = __name__

    @address
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.GET["name"] + request.POST.get("name", ""))

    view.csrf_exempt = True
    headers = {"Content-Type": f"{kind}; charset={charset}"}
    body = "name=%C3%A9" if "form" in kind else "{}"
    response = await ask("/here?name=%C3%A4", method="POST", headers=headers, content=body)
    assert response.text == ("äé" if "form" in kind else "ä")
