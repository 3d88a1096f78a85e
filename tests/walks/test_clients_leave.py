"""A client that leaves, at any point, changes nothing about its run."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.server import Installation, Server, eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    site = Installation(tmp_path_factory.mktemp("clients"))
    with site.serving() as server:
        yield server


def _post(server: Server, path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: {server.client.headers['Authorization']}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


def _send_and_leave(server: Server, request: bytes, *, reset: bool) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        if reset:  # close with RST: nothing in the buffers is delivered
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sendall(request)


def _runs(server: Server, marker: float) -> list[dict[str, object]]:
    asked = {"page_size": 200, "include": "input"}
    runs = server.client.get("/runs", params=asked).json()["results"]
    return [run for run in runs if run["input"].get("seconds") == marker]


def test_leaving_right_after_the_request_still_starts_the_run(server: Server) -> None:
    marker = 0.311
    body = {"agent": "site-brief", "input": {"seconds": marker}}
    _send_and_leave(server, _post(server, "/runs", body), reset=False)
    run = eventually(lambda: _runs(server, marker), "the run is there")[0]
    assert server.until(str(run["id"]), "success")["result"] == "done"


@pytest.mark.parametrize("missing", [1, 10, 40])
def test_leaving_in_the_middle_of_a_request_starts_nothing(server: Server, missing: int) -> None:
    marker = 0.4 + missing / 1000
    body = {"agent": "site-brief", "input": {"seconds": marker}}
    _send_and_leave(server, _post(server, "/runs", body)[:-missing], reset=True)
    # After the answer to a later request, the broken one was handled or never will be.
    server.until(server.start("site-trivial"), "success")
    assert _runs(server, marker) == []


def test_leaving_while_waiting_for_a_stop_still_stops(server: Server) -> None:
    run = server.start("site-loop")
    server.until_it_works(run)
    _send_and_leave(
        server, _post(server, f"/runs/{run}/stop?wait=60", {"reason": "gone"}), reset=False
    )
    assert server.until(run, "stopped")["stop"]["reason"] == "gone"


def test_leaving_while_watching_does_not_touch_the_run(server: Server) -> None:
    run = server.start("site-brief", seconds=1.0)
    request = _post(server, f"/runs/{run}/events", {}).replace(b"POST", b"GET", 1)
    for number in range(20):
        _send_and_leave(server, request, reset=bool(number % 2))
    final = server.until(run, "success")
    assert final["result"] == "done"
    assert final["stop"] is None
