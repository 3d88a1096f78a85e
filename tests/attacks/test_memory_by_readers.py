"""Readers that read nothing, of a run with an input of megabytes, and lists of such runs."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.server import PATIENCE_SECONDS, Installation, Server
from tests.support.sockets import open_and_do_not_read, open_socket

INPUT_BYTES = 7 * 1024 * 1024
MIB = 1024 * 1024
LARGE = {"input", "result", "partial_result"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("readers")
    installation = Installation(folder, RUNS_DRAIN_SECONDS="0")
    with installation.serving(MALLOC_ARENA_MAX="1") as server:
        yield server


@pytest.fixture(scope="module")
def large_run(served: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that goes on, with an input of 7 MB."""
    path = tmp_path_factory.mktemp("held") / "go"
    run = served.start("site-held", path=str(path), document="x" * INPUT_BYTES)
    served.until(run, "running")
    served.until_it_works(run)
    return run


@pytest.mark.parametrize("wire", ["stream", "socket"])
def test_of_twenty_unread_feeds_each_costs_little(
    served: Server, large_run: str, wire: str
) -> None:
    opened: Callable[[Server, str], socket.socket]
    opened = _open_stream if wire == "stream" else _open_socket
    with ExitStack() as feeds:
        feeds.enter_context(opened(served, large_run))  # reads and encodes the input for all
        before = _memory_bytes(served)
        for _ in range(20):
            feeds.enter_context(opened(served, large_run))
        grown = _memory_bytes(served) - before
        assert grown / 20 < MIB, f"{grown / 20 / MIB:.1f} MiB each"
        # The others are served meanwhile.
        assert served.run(large_run)["status"] == "running"


async def test_a_reader_gets_a_large_run_whole(served: Server, large_run: str) -> None:
    """It comes in fragments over a socket, and in pieces over a stream."""
    whole = await asyncio.to_thread(served.run, large_run)
    async with asyncio.timeout(PATIENCE_SECONDS):
        ws = await open_socket(served, f"/ws/runs/{large_run}")
        frame = json.loads(await ws.recv())
        await ws.close()
    assert frame == {"type": "run", "run": whole}
    lines = served.client.stream(
        "GET", f"/runs/{large_run}/events", headers={"Accept": "text/event-stream"}
    )
    with lines as answer:
        data = next(line for line in answer.iter_lines() if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: ")) == whole


def test_a_list_and_a_409_have_no_inputs(served: Server) -> None:
    runs = [_over(served) for _ in range(3)]
    answer = served.client.get("/runs", params={"agent": "site-held", "status": "success"})
    listed = {run["id"]: run for run in answer.json()["results"]}
    assert set(runs) <= listed.keys()
    assert len(answer.content) < 10_000
    refused = served.client.post(f"/runs/{runs[0]}/stop")
    assert refused.status_code == 409
    assert len(refused.content) < 10_000
    whole = served.run(runs[0])
    assert len(whole["input"]["document"]) == INPUT_BYTES
    without = {name: value for name, value in whole.items() if name not in LARGE}
    assert listed[runs[0]] == refused.json()["run"] == without


def test_pages_with_inputs_have_an_end(served: Server) -> None:
    runs = [_over(served) for _ in range(3)]
    found = []
    address = "/runs?include=input,result&status=success&page_size=200"
    while address:
        answer = served.client.get(address)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) < 9 * MIB
        page = answer.json()
        found += [run["id"] for run in page["results"]]
        for run in page["results"]:
            assert len(run["input"]["document"]) == INPUT_BYTES
            assert run["result"] == "let go"
        address = page["next"]
    assert set(runs) <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.postgres
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/runs/{run}", marks=pytest.mark.thorough),
        "/app/runs/{run}/download/events",
    ],
)
def test_unread_answers_hold_no_database_connections(
    served: Server, large_run: str, path: str
) -> None:
    """The pool has twenty. With all of them held, every other request would be a 503."""
    if path.startswith("/app"):
        run = served.start("site-flood", lines=120, pause=0.0, size=50_000)
        served.until(run, "success")
        session = _sign_in(served)
        headers = [f"Cookie: sessionid={session}"]
    else:
        run, headers = large_run, [f"Authorization: {served.client.headers['Authorization']}"]
    with ExitStack() as answers:
        for _ in range(25):
            answers.enter_context(_open(served, path.format(run=run), *headers))
        for _ in range(5):
            assert served.client.get(f"/runs/{large_run}/events").status_code == 200


def _sign_in(server: Server) -> str:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as browser:
        browser.get("/accounts/login/")
        form = {"username": "demo", "password": "demo"}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        assert browser.post("/accounts/login/", data=form).status_code == 302
        return browser.cookies["sessionid"]


def _over(server: Server) -> str:
    run = server.start("site-held", path="/", document="y" * INPUT_BYTES)
    server.until(run, "success")
    return run


def _open_stream(server: Server, run: str) -> socket.socket:
    token = f"Authorization: {server.client.headers['Authorization']}"
    raw = _open(server, f"/runs/{run}/events", "Accept: text/event-stream", token)
    head = b""
    while b"event: run" not in head:
        head += raw.recv(4_096)
    return raw


def _open(server: Server, path: str, *headers: str) -> socket.socket:
    """Send a request, and read nothing but the first line of its answer."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    raw.settimeout(PATIENCE_SECONDS)
    raw.connect(("127.0.0.1", server.port))
    lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers)
    raw.sendall("\r\n".join([*lines, "", ""]).encode())
    status = raw.recv(len("HTTP/1.1 200"))
    assert status == b"HTTP/1.1 200", status
    return raw


def _open_socket(server: Server, run: str) -> socket.socket:
    raw = open_and_do_not_read(server, run)
    assert b'{"type":"run"' in raw.recv(4_096)
    return raw


def _memory_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
