"""From a start to the agent's first line; from a stop to AgentStopped and to the final state."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from .measure import Figure, distribution
from .site import fresh_site, over, register_agents

__all__ = ["measure_rest", "measure_service"]

COUNT = 200
WARM_UP = 20


def measure_service() -> Iterator[Figure]:
    """Through the service functions, in the worker's process."""
    with fresh_site() as user:
        register_agents()
        from runs.actions import starting, stopping
        from runs.models import StopVia
        from runs.worker.worker import Worker

        worker = Worker()
        worker.start_threads()
        starts, stops, ends = [], [], []
        try:
            for number in range(COUNT + WARM_UP):
                started = time.perf_counter()
                run, _ = starting.start_run("bench-first-line", {}, owner=user)
                start = over(run.pk).result - started
                run, _ = starting.start_run("bench-loop", {}, owner=user)
                _until_started(run.pk)
                started = time.perf_counter()
                stopping.request_stop(run.pk, via=StopVia.API, by=user)
                record = over(run.pk)
                ended = time.perf_counter()
                assert record.status == "stopped", record.status
                if number >= WARM_UP:
                    starts.append(start * 1e3)
                    stops.append((record.partial_result - started) * 1e3)
                    ends.append((ended - started) * 1e3)
        finally:
            worker.stop_threads()
        yield distribution("service start to the agent's first line", "ms", starts, target=5)
        yield distribution("service stop to AgentStopped", "ms", stops, target=5)
        yield distribution("service stop to a final state that can be read", "ms", ends)


def measure_rest() -> Iterator[Figure]:
    """Through HTTP on loopback. The server is a thread: client and server share one GIL."""
    with fresh_site() as user:
        register_agents()
        from runs.identity import tokens

        key = tokens.create(user)[0]
        server, address = _serve()
        try:
            yield from _by_rest(address, key)
            yield _during(address, key, "bench-block", "GET a run while an agent blocks its loop")
            yield _during(address, key, "bench-compute", "GET a run while a def agent computes")
        finally:
            server.should_exit = True
            server.bench_thread.join(30)


def _by_rest(address: str, key: str) -> Iterator[Figure]:
    import httpx

    starts, stops, ends = [], [], []
    headers = {"Authorization": f"Token {key}"}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        for number in range(COUNT + WARM_UP):
            started = time.perf_counter()
            run = client.post("/runs", json={"agent": "bench-first-line"}).raise_for_status().json()
            start = _over_by_rest(client, run["id"])["result"] - started
            run = client.post("/runs", json={"agent": "bench-loop"}).raise_for_status().json()
            while client.get(f"/runs/{run['id']}").json()["last_seq"] < 1:
                pass
            started = time.perf_counter()
            answer = client.post(f"/runs/{run['id']}/stop", params={"wait": 10})
            ended = time.perf_counter()
            final = answer.raise_for_status().json()
            assert final["status"] == "stopped", final["status"]
            if number >= WARM_UP:
                starts.append(start * 1e3)
                stops.append((final["partial_result"] - started) * 1e3)
                ends.append((ended - started) * 1e3)
    yield distribution("POST /runs to the agent's first line", "ms", starts)
    yield distribution("POST stop to AgentStopped", "ms", stops)
    yield distribution("POST stop?wait to the final run in the answer", "ms", ends)


def _during(address: str, key: str, agent: str, name: str) -> Figure:
    """Read a run repeatedly while ``agent`` keeps a thread or the interpreter busy."""
    import httpx

    took = []
    headers = {"Authorization": f"Token {key}"}
    with httpx.Client(base_url=address, headers=headers, timeout=30) as client:
        run = client.post("/runs", json={"agent": agent, "input": {"seconds": 3}}).json()["id"]
        while client.get(f"/runs/{run}").json()["status"] == "queued":
            pass
        while True:
            started = time.perf_counter()
            status = client.get(f"/runs/{run}").json()["status"]
            if status != "running":
                break
            took.append((time.perf_counter() - started) * 1e3)
    assert status == "success", status
    return distribution(name, "ms", took, target=100)


def _over_by_rest(client: Any, run: str) -> Any:
    while True:
        found = client.get(f"/runs/{run}").json()
        if found["status"] not in ("queued", "running"):
            return found


def _until_started(run: Any) -> None:
    from runs.delivery import local_runs

    while (entry := local_runs.get(run)) is None or entry.guard is None:
        time.sleep(0.0005)
    time.sleep(0.003)  # until it is in its loop


def _serve() -> tuple[Any, str]:
    import uvicorn

    from project.asgi import application

    # As runserver does: asyncio switches Nagle off only for sockets with an explicit TCP protocol.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(application, log_level="warning", lifespan="on")
    server: Any = uvicorn.Server(config)
    server.bench_thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )
    server.bench_thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, f"http://127.0.0.1:{listener.getsockname()[1]}"
