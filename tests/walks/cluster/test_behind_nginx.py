"""The installation of docs/deploying.md with its example of nginx, during a rolling restart."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.support.cluster import MakeCluster, Web
from tests.support.nginx import HOST, Proxy, proxying
from tests.support.server import PATIENCE_SECONDS, eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

PRODUCTION = {
    "DJANGO_DEBUG": "0",
    "DJANGO_SECRET_KEY": "only for this test, and long enough for its checks",
    "DJANGO_ALLOWED_HOSTS": HOST,
}


class Reader:
    """Follows a run through the proxy, and reconnects whenever its connection is closed."""

    def __init__(self, follow: Callable[[int], Iterator[dict[str, Any]]]) -> None:
        self.seqs: list[int] = []
        self.end: dict[str, Any] | None = None
        self.connections = 0
        self._follow = follow
        self._is_leaving = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert self.end is not None, "its feed has no end"

    def leave(self) -> None:
        """Stop following, for connections that the proxy has ended."""
        self._is_leaving.set()
        self._thread.join(PATIENCE_SECONDS)

    def _main(self) -> None:
        give_up = time.monotonic() + 3 * PATIENCE_SECONDS
        while self.end is None and time.monotonic() < give_up and not self._is_leaving.is_set():
            self.connections += 1
            # A client that connects while a process shuts down is refused in one of several ways.
            with contextlib.suppress(httpx.TransportError, WebSocketException, OSError, EOFError):
                self._read()
            time.sleep(0.05)

    def _read(self) -> None:
        for frame in self._follow(self.seqs[-1] if self.seqs else 0):
            if frame["type"] == "trace":
                self.seqs.append(frame["event"]["seq"])
            elif frame["type"] == "end":
                self.end = frame["run"]


def _socket(proxy: Proxy, token: str, run: str) -> Callable[[int], Iterator[dict[str, Any]]]:
    def follow(after: int) -> Iterator[dict[str, Any]]:
        with connect(
            f"wss://{HOST}:{proxy.port}/ws/runs/{run}?after={after}",
            sock=socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_SECONDS),
            additional_headers={"Authorization": f"Token {token}"},
            ssl=proxy.trust,
            max_size=None,
        ) as reader:
            while True:
                yield json.loads(reader.recv(PATIENCE_SECONDS))

    return follow


def _stream(client: httpx.Client, run: str) -> Callable[[int], Iterator[dict[str, Any]]]:
    def follow(after: int) -> Iterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with client.stream("GET", f"/runs/{run}/events", headers=headers) as answer:
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                    yield {"type": kind, "event": data, "run": data}

    return follow


@pytest.fixture
def client() -> Iterator[Callable[[Proxy, str], httpx.Client]]:
    made: list[httpx.Client] = []

    def make(proxy: Proxy, token: str) -> httpx.Client:
        made.append(
            httpx.Client(
                base_url=f"https://127.0.0.1:{proxy.port}",
                headers={"Authorization": f"Token {token}", "Host": HOST},
                verify=proxy.trust,
                timeout=PATIENCE_SECONDS,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_pages_feeds_and_stops_survive_a_rolling_restart(
    make_cluster: MakeCluster, client: Callable[[Proxy, str], httpx.Client], tmp_path: Path
) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    cluster = make_cluster(**PRODUCTION)
    webs, _ = cluster.launch(webs=2, workers=1)
    ports = [web.port for web in webs]
    with contextlib.ExitStack() as leaving, proxying(folder, ports) as proxy:
        site = client(proxy, cluster.token)
        _assert_site_is_configured(site, proxy)
        run = _start(site, "site-loop")
        readers = [
            Reader(_socket(proxy, cluster.token, run)),
            Reader(_stream(client(proxy, cluster.token), run)),
        ]
        for reader in readers:
            leaving.callback(reader.leave)
        for reader in readers:  # while the run is active: the proxy must not buffer
            eventually(lambda reader=reader: len(reader.seqs) >= 2, "its first events have arrived")
        for web in webs:
            _restart(cluster, web, site)
        gone = cluster.nodes[-1]  # the proxy uses the others; its configuration does not change
        gone.terminate()
        gone.wait()
        answer = site.post(f"/runs/{run}/stop", params={"wait": 30}, json={"reason": "enough"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["stop"]["reason"] == "enough"
        for reader in readers:
            reader.join()
            assert reader.seqs == list(range(1, answer.json()["last_seq"] + 1))
            assert reader.end is not None
            assert reader.end["status"] == "stopped"
        assert sum(reader.connections for reader in readers) > len(readers), (
            "no reader was disconnected"
        )


def _assert_site_is_configured(site: httpx.Client, proxy: Proxy) -> None:
    page = site.get("/accounts/login/")
    assert page.status_code == 200
    assert page.headers[
        "Strict-Transport-Security"
    ]  # the process knows that the request came by https
    assert "Secure" in page.headers["Set-Cookie"]
    assert site.get("/metrics").status_code == 404
    assert site.get("/health/ready").json()["status"] == "ready"
    too_large = site.post("/runs", content=b" " * (10 * 1024 * 1024))
    assert (too_large.status_code, too_large.json()["code"]) == (413, "input_too_large")
    plain = httpx.get(f"http://127.0.0.1:{proxy.plain_port}/app/", headers={"Host": HOST})
    assert (plain.status_code, plain.headers["Location"]) == (301, f"https://{HOST}/app/")


def _start(site: httpx.Client, agent: str, **input: Any) -> str:
    answer = site.post("/runs", json={"agent": agent, "input": input})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _restart(cluster: Any, web: Web, site: httpx.Client) -> None:
    """Restart a process while the site is in use: no request fails."""
    web.terminate()
    while web.is_alive:
        assert site.get("/runs").status_code == 200
    assert web.wait() == 0, web.output
    for number in range(5):  # no process listens there now, and nginx detects that
        assert site.get("/runs").status_code == 200
        _start(site, "site-trivial", number=number)
    cluster.again(web)
