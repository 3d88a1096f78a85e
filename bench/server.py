"""The server as a separate process, and its use of the machine."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import processes

__all__ = ["Server", "serving"]

START_SECONDS = 60
#: One user has all readers and waiters of a benchmark.
_ENVIRONMENT = {
    "RUNS_DRAIN_SECONDS": "1",
    "METRICS_TOKEN": "bench",
    "RUNS_MAX_FEEDS_PER_OWNER": "0",
    "RUNS_MAX_WAITERS_PER_OWNER": "0",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server process, and a client that is signed in."""

    pid: int
    host: str
    port: int
    token: str
    client: Any  # httpx.Client

    def start(self, agent: str, **input: Any) -> str:
        """Start a run, and return its id."""
        answer = self.client.post("/runs", json={"agent": agent, "input": input})
        return str(answer.raise_for_status().json()["id"])

    def run(self, id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/runs/{id}").raise_for_status().json())

    def until(self, id: str, *statuses: str, limit: float = 120) -> dict[str, Any]:
        """Wait until a run is in one of ``statuses``, and return it."""
        end = time.monotonic() + limit
        while (run := self.run(id))["status"] not in statuses:
            if time.monotonic() > end:
                raise TimeoutError(f"still {run['status']} after {limit} s")
            time.sleep(0.02)
        return run

    def stop(self, id: str) -> dict[str, Any]:
        """Stop a run, and wait for its end."""
        answer = self.client.post(f"/runs/{id}/stop", params={"wait": 30})
        return dict(answer.raise_for_status().json())

    def resident_kib(self) -> float:
        return processes.resident_kib(self.pid)

    def thread_count(self) -> float:
        return processes.thread_count(self.pid)

    def gauge(self, name: str) -> float:
        """Return a gauge of ``/metrics``."""
        headers = {"Authorization": f"Bearer {_ENVIRONMENT['METRICS_TOKEN']}"}
        text = self.client.get("/metrics", headers=headers).raise_for_status().text
        return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])

    def processor_seconds(self) -> float:
        return processes.processor_seconds(self.pid)


@contextlib.contextmanager
def serving(token: str) -> Iterator[Server]:
    """Serve the site that the environment names, until the block ends."""
    import httpx

    headers = {"Authorization": f"Token {token}"}
    with _process() as process:
        assert process.stdout is not None
        host, port = _address(process.stdout)
        with httpx.Client(base_url=f"http://{host}:{port}", headers=headers, timeout=60) as client:
            _until_ready(client)
            yield Server(process.pid, host, port, token, client)


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[str]]:
    """Run the server's process; show the end of its log if something fails."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.server"],
            stdout=subprocess.PIPE,  # the first lines of the log
            stderr=log,
            env=os.environ | _ENVIRONMENT,
            text=True,
        )
        try:
            yield process
        except BaseException:
            log.seek(0)
            print(log.read()[-4_000:].decode(errors="replace"), file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(lines: Iterator[str]) -> tuple[str, int]:
    for line in lines:
        if found := re.search(r"http://([\d.]+):(\d+)/", line):
            return found[1], int(found[2])
    raise RuntimeError("the server did not start")


def _until_ready(client: Any) -> None:
    end = time.monotonic() + START_SECONDS
    while client.get("/health/ready").status_code != 200:
        if time.monotonic() > end:
            raise TimeoutError("the server is not ready")
        time.sleep(0.05)


def _serve() -> None:
    import django
    from django.core.management import call_command

    from .site import register_agents

    django.setup()
    register_agents()
    call_command("runserver", "127.0.0.1:0", use_reloader=False)


if __name__ == "__main__":
    _serve()
