"""An abort of a model's call: until the model's server notes it, and until the run is over.

Needs DATABASE_URL and REDIS_URL. The server is in this process: it streams a word every 20 ms, and
notes the instant at which its client has gone.
"""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from .measure import Figure, distribution
from .server import Server, serving
from .site import fresh_cluster
from .workers import working

__all__ = ["measure"]

COUNT = 100


class _Model(http.server.BaseHTTPRequestHandler):
    """Streams without end, until the client goes away."""

    started = threading.Event()
    gone = threading.Event()
    gone_at = 0.0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        piece = {"choices": [{"index": 0, "delta": {"content": "word "}}]}
        self.connection.settimeout(0.02)
        try:
            while True:
                self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
                self.wfile.flush()
                _Model.started.set()
                try:
                    if not self.connection.recv(1):
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass
        _Model.gone_at = time.perf_counter()
        _Model.gone.set()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def measure() -> Iterator[Figure]:
    """Measure aborts in the worker of the web process, in another one, and without messages."""
    model = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    model.daemon_threads = True
    threading.Thread(target=model.serve_forever, daemon=True).start()
    os.environ["LLM_BASE_URL"] = f"http://127.0.0.1:{model.server_port}/v1"
    os.environ |= {"LLM_API_KEY": "", "LLM_MODEL": "bench"}
    with fresh_cluster() as user:
        from runs.identity import tokens

        token = tokens.create(user)[0]
        with serving(token) as server:
            yield from _aborts(server, "in the same process", 250)
        os.environ["RUNS_EMBEDDED_WORKER"] = "0"
        with serving(token) as server, working(1):
            yield from _aborts(server, "in another process", 1_000)
        os.environ["REDIS_URL"] = ""
        with serving(token) as server, working(1):
            yield from _aborts(server, "in another process, without messages", 1_500)
    model.shutdown()


def _aborts(server: Server, where: str, target: float) -> Iterator[Figure]:
    closed, over = [], []
    for _ in range(COUNT):
        _Model.started.clear()
        _Model.gone.clear()
        run = server.start("bench-model")
        assert _Model.started.wait(10)
        started = time.perf_counter()
        server.client.post(f"/runs/{run}/stop", json={"mode": "abort"}).raise_for_status()
        assert _Model.gone.wait(10)
        closed.append((_Model.gone_at - started) * 1e3)
        record: dict[str, Any] = server.until(run, "stopped")
        over.append((time.perf_counter() - started) * 1e3)
        usage = record["usage"]
        assert usage["estimated"], record
        assert usage["output_tokens"] > 0, record
    yield distribution(f"abort to the closed connection, {where}", "ms", closed, target=target)
    yield distribution(f"abort to a final state, {where}", "ms", over, target=target + 750)
