"""Server-sent events: who may follow, from where, and that a stream holds nothing back or open."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from project.asgi import application
from runs.identity import tokens
from runs.identity.models import ApiToken
from runs.models import RunEvent
from runs.web.api import event_stream
from runs.web.feed import close_hub, get_hub, hub
from tests.support.feeds import parse_server_sent

from .conftest import Runs

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_SECONDS = 20.0
HEADERS = {"Accept": "text/event-stream"}


@pytest.fixture
def served(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Served]:
    """Serve on a real uvicorn, in a thread, with a hub that looks often."""
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    for name in ("POLL_SECONDS", "RIGHTS_SECONDS"):
        monkeypatch.setattr(hub, name, 0.02)
    served = _Served()
    try:
        yield served
    finally:
        served.close()


class _Served:
    def __init__(self) -> None:
        self.hub: Any = None
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            port=0,
            lifespan="on",
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="uvicorn")
        self._thread.start()
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._server.started:
            assert self._thread.is_alive(), "the server didn't start"
            assert time.monotonic() < deadline, "the server is still starting"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        await receive()
        self.hub = get_hub()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await close_hub()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def api_of(served: _Served) -> Iterator[Callable[[User | None], httpx.Client]]:
    """Give a client with a user's token."""
    clients: list[httpx.Client] = []

    def make(user: User | None) -> httpx.Client:
        headers = dict(HEADERS)
        if user is not None:
            headers["Authorization"] = f"Token {tokens.create(user)[0]}"
        client = httpx.Client(base_url=served.url, headers=headers, timeout=WAIT_SECONDS)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def stream(api_of: Any, alice: User) -> httpx.Client:
    return api_of(alice)  # type: ignore[no-any-return]


def _whole(client: httpx.Client, path: str, **headers: str) -> list[tuple[str, str, Any]]:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.text.startswith("retry: 1000\n\n")
    return parse_server_sent(answer.text)


def test_a_run_that_is_over_is_told_and_closed(runs: Runs, stream: httpx.Client) -> None:
    run = runs.end(runs.tell(runs.running(text="a\r\nb\u2028c"), 3), result="done\n\ndata: x")
    told = _whole(stream, f"/runs/{run.pk}/events")
    assert [type for type, _, _ in told] == ["run", "trace", "trace", "trace", "trace", "end"]
    assert [id for _, id, _ in told] == ["", "1", "2", "3", "4", ""]
    fresh = stream.get(f"/runs/{run.pk}", headers={"Accept": "application/json"}).json()
    assert told[0][2] == told[-1][2] == fresh
    assert fresh["input"] == {"text": "a\r\nb\u2028c"}


@pytest.mark.parametrize(
    ("query", "last_event_id", "first"),
    [
        ("", "", 1),
        ("?after=0", "", 1),
        ("?after=2", "", 3),
        ("?cursor=3", "", 4),
        ("", "2", 3),
        ("?after=1", "3", 4),
        ("?cursor=1", "3", 4),
    ],
)
def test_it_begins_where_it_is_asked_to(
    runs: Runs, stream: httpx.Client, query: str, last_event_id: str, first: int
) -> None:
    run = runs.end(runs.tell(runs.running(), 3))
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    told = _whole(stream, f"/runs/{run.pk}/events{query}", **headers)
    assert [data["seq"] for type, _, data in told if type == "trace"] == list(range(first, 5))


@pytest.mark.parametrize("after", ["4", "5", str(2**31 - 1)])
def test_behind_the_last_event_there_is_only_the_end(
    runs: Runs, stream: httpx.Client, after: str
) -> None:
    run = runs.end(runs.tell(runs.running(), 3))
    told = _whole(stream, f"/runs/{run.pk}/events?after={after}")
    assert [type for type, _, _ in told] == ["run", "end"]


def test_what_comes_later_is_told_as_it_comes(runs: Runs, stream: httpx.Client) -> None:
    run = runs.tell(runs.running(), 1)
    with stream.stream("GET", f"/runs/{run.pk}/events") as answer:
        lines = answer.iter_lines()
        _until(lines, "id: 1")
        runs.tell(run, 1)
        _until(lines, "id: 2")
        runs.end(run)
        _until(lines, "event: end")
        assert [line for line in lines if line and not line.startswith("data:")] == []


def test_a_tree_is_resumed_by_its_opaque_ids(runs: Runs, stream: httpx.Client) -> None:
    root = runs.running()
    child = runs.child_of(root)
    runs.tell(root, 2)
    runs.end(runs.tell(child, 2))
    runs.end(root)
    whole = [
        (id, data["run"], data["seq"])
        for type, id, data in _whole(stream, f"/runs/{root.pk}/events?tree=1")
        if type == "trace"
    ]
    assert len(whole) == 6
    assert {run for _, run, _ in whole} == {str(root.pk), str(child.pk)}
    for number, (id, _, _) in enumerate(whole, 1):
        assert not id.isdigit()
        path = f"/runs/{root.pk}/events?tree=1"
        again = _whole(stream, path, **{"Last-Event-ID": id})
        rest = [(data["run"], data["seq"]) for type, _, data in again if type == "trace"]
        assert sorted(rest) == sorted((run, seq) for _, run, seq in whole[number:])


class TestRefusal:
    def test_of_others_and_of_nobody_is_json(
        self, runs: Runs, api_of: Any, bob: User, viewer: User
    ) -> None:
        run = runs.success()
        path = f"/runs/{run.pk}/events"
        hidden, missing = api_of(bob).get(path), api_of(bob).get(f"/runs/{uuid.uuid4()}/events")
        assert hidden.status_code == missing.status_code == 404
        assert hidden.json() == missing.json()
        nobody = api_of(None).get(path)
        assert (nobody.status_code, nobody.json()["code"]) == (401, "not_authenticated")
        assert api_of(viewer).get(path).status_code == 200

    @pytest.mark.parametrize(
        "query", ["after=x", "after=-1", "cursor=!", "tree=2", "limit=5", "unknown=1"]
    )
    def test_of_bad_parameters_names_them(
        self, runs: Runs, stream: httpx.Client, query: str
    ) -> None:
        answer = stream.get(f"/runs/{runs.success().pk}/events?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_filter")
        assert list(answer.json()["fields"]) == [query.partition("=")[0]]

    def test_of_a_bad_last_event_id_names_it(self, runs: Runs, stream: httpx.Client) -> None:
        path = f"/runs/{runs.success().pk}/events"
        answer = stream.get(path, headers={"Last-Event-ID": "nonsense"})
        assert answer.status_code == 400
        assert list(answer.json()["fields"]) == ["Last-Event-ID"]

    def test_of_other_media_types_leaves_json_the_default(
        self, runs: Runs, stream: httpx.Client
    ) -> None:
        path = f"/runs/{runs.success().pk}/events"
        for accept in ("*/*", "application/json", "application/json, text/event-stream;q=0.5"):
            answer = stream.get(path, headers={"Accept": accept})
            assert answer.headers["content-type"] == "application/json"

    def test_a_head_request_is_answered_without_a_stream(
        self, runs: Runs, stream: httpx.Client
    ) -> None:
        answer = stream.head(f"/runs/{runs.running().pk}/events")
        assert answer.status_code == 200
        assert answer.content == b""


def test_silence_is_filled_with_comments(
    runs: Runs, stream: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HEARTBEAT_SECONDS", 0.02)
    with stream.stream("GET", f"/runs/{runs.running().pk}/events") as answer:
        lines = answer.iter_lines()
        for _ in range(3):
            _until(lines, ":")


@pytest.mark.parametrize("proof", ["token", "session"])
def test_it_ends_when_the_right_to_it_ends(
    runs: Runs, served: _Served, api_of: Any, alice: User, proof: str
) -> None:
    run = runs.running()
    client = api_of(alice if proof == "token" else None)
    browser = Client()
    if proof == "session":
        browser.force_login(alice)
        client.cookies["sessionid"] = browser.cookies["sessionid"].value
    with client.stream("GET", f"/runs/{run.pk}/events") as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        _until(lines, "event: run")
        if proof == "token":
            ApiToken.objects.all().delete()
        else:
            browser.logout()
        assert "event: end" not in list(lines)
    assert client.get(f"/runs/{run.pk}/events").status_code == 401


def test_a_deleted_run_ends_it(runs: Runs, stream: httpx.Client) -> None:
    run = runs.queued()
    with stream.stream("GET", f"/runs/{run.pk}/events") as answer:
        lines = answer.iter_lines()
        _until(lines, "event: run")
        run.input_record.delete()
        run.delete()
        assert "event: end" not in list(lines)


def test_a_client_that_leaves_is_forgotten(
    runs: Runs, served: _Served, stream: httpx.Client
) -> None:
    run = runs.running()
    for _ in range(5):
        with stream.stream("GET", f"/runs/{run.pk}/events?tree=1") as answer:
            _until(answer.iter_lines(), "event: run")
    deadline = time.monotonic() + WAIT_SECONDS
    while served.hub.readers or served.hub.refresher.trees:
        assert time.monotonic() < deadline, served.hub.readers
        time.sleep(0.01)
    assert all(not tail.wakers for tail in served.hub.tails)


def test_a_client_that_reads_nothing_is_let_go(
    runs: Runs, served: _Served, stream: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STUCK_SECONDS", 0.3)
    run = runs.running()
    runs.tell(run, 400)
    RunEvent.objects.filter(run=run).update(data={"message": "x" * 50_000})
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        stuck.connect((stream.base_url.host, stream.base_url.port or 80))
        head = "".join(f"{name}: {value}\r\n" for name, value in stream.headers.items())
        stuck.sendall(
            f"GET /runs/{run.pk}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode()
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while not served.hub.readers:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while served.hub.readers:
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.01)


def test_a_server_that_shuts_down_waits_for_no_stream(
    runs: Runs, served: _Served, stream: httpx.Client
) -> None:
    with stream.stream("GET", f"/runs/{runs.running().pk}/events") as answer:
        lines = answer.iter_lines()
        _until(lines, "event: run")
        served.hub._loop.call_soon_threadsafe(
            lambda: served.hub._loop.create_task(served.hub.close())
        )
        assert "event: end" not in list(lines)


def _connection_count() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


@pytest.mark.postgres
def test_a_stream_holds_no_connection(runs: Runs, stream: httpx.Client) -> None:
    """A pool of twenty would be gone with twenty readers, and the API with it."""
    run = runs.running()
    before = _connection_count()  # of what earlier tests left open, too
    open_streams = []
    try:
        for _ in range(30):
            request = stream.build_request("GET", f"/runs/{run.pk}/events")
            answer = stream.send(request, stream=True)
            _until(answer.iter_lines(), "event: run")
            open_streams.append(answer)
        assert _connection_count() < before + 10
        answer = stream.get(f"/runs/{run.pk}", headers={"Accept": "application/json"})
        assert answer.status_code == 200
    finally:
        for answer in open_streams:
            answer.close()


def test_it_is_documented(client: Client) -> None:
    document = client.get("/api/schema").json()
    operation = document["paths"]["/runs/{id}/events"]["get"]
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    named = {(one["in"], one["name"]) for one in operation["parameters"]}
    assert {("query", "tree"), ("query", "cursor"), ("header", "Last-Event-ID")} <= named


def _until(lines: Iterator[str], line: str) -> None:
    for found in lines:
        if found == line:
            return
    raise AssertionError(f"the stream ended without {line!r}")
