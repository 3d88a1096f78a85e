"""Starts and stops across processes: this process requests, a worker runs the agent.

The instants of both processes are compared. That is valid on one machine: ``time.perf_counter()``
is the same clock in all processes.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .measure import Figure, distribution
from .server import Server, serving
from .site import fresh_cluster, over, register_agents, seconds_until
from .workers import working

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["measure_latency", "measure_latency_under_load"]

COUNT, WARM_UP = 150, 20
IN_FLIGHT = 1_000
STARTS_PER_SECOND = 50


def measure_latency() -> Iterator[Figure]:
    """One worker, one web process without a worker, and this process; no other load."""
    with fresh_cluster() as user, _web(user) as server, working(1):
        register_agents()
        yield from _starts(user, server)
        yield from _stops(user, server, "")


def measure_latency_under_load() -> Iterator[Figure]:
    """The same, with a thousand runs in flight in the worker and fifty new ones each second."""
    with fresh_cluster() as user, _web(user) as server, working(1):
        register_agents()
        from runs.actions import starting
        from runs.models import RunRecord

        for _ in range(IN_FLIGHT):
            starting.start_run("bench-loop", {"pause": 1.0}, owner=user)
        started = RunRecord.objects.filter(status="running", last_seq__gte=1)
        seconds_until(lambda: started.count() == IN_FLIGHT, pause=0.1)
        with _starting():
            yield from _stops(user, server, f", {IN_FLIGHT:,} in flight, 50 starts a second")


def _starts(user: User, server: Server) -> Iterator[Figure]:
    from runs.actions import starting

    def by_service() -> float:
        started = time.perf_counter()
        run, _ = starting.start_run("bench-first-line", {}, owner=user)
        return float(over(run.pk).result - started)

    def by_post() -> float:
        started = time.perf_counter()
        run = server.start("bench-first-line")
        return float(over(run).result - started)

    yield _distribution(
        "service start to the agent's first line, across processes", by_service, 3.3
    )
    yield _distribution("POST /runs to the agent's first line, across processes", by_post)


def _stops(user: User, server: Server, load: str) -> Iterator[Figure]:
    from runs.actions import stopping
    from runs.models import StopVia

    ends: list[float] = []

    def ask_service(run: Any) -> None:
        stopping.request_stop(run, via=StopVia.API, by=user)

    def ask_post(run: Any) -> None:
        server.client.post(f"/runs/{run}/stop").raise_for_status()

    def stop(ask: Callable[[Any], None]) -> float:
        run = _start_loop(user)
        started = time.perf_counter()
        ask(run)
        record = over(run)
        ends.append((time.perf_counter() - started) * 1e3)
        assert record.status == "stopped", record.status
        return float(record.partial_result - started)

    yield _distribution(
        f"service stop to AgentStopped, across processes{load}", lambda: stop(ask_service), 4.0
    )
    yield distribution(
        f"service stop to a final state, across processes{load}", "ms", ends[WARM_UP:]
    )
    ends.clear()
    yield _distribution(
        f"POST stop to AgentStopped, across processes{load}", lambda: stop(ask_post), 10.0
    )
    yield distribution(f"POST stop to a final state, across processes{load}", "ms", ends[WARM_UP:])


def _start_loop(user: User) -> Any:
    from runs.actions import starting
    from runs.models import RunRecord

    run, _ = starting.start_run("bench-loop", {}, owner=user)
    started = RunRecord.objects.filter(pk=run.pk, last_seq__gte=1)
    seconds_until(started.exists)
    time.sleep(random.uniform(0.005, 0.015))
    return run.pk


def _distribution(name: str, once: Callable[[], float], target: float | None = None) -> Figure:
    took = [once() * 1e3 for _ in range(COUNT + WARM_UP)]
    return distribution(name, "ms", took[WARM_UP:], target=target)


@contextlib.contextmanager
def _web(user: User) -> Iterator[Server]:
    from runs.identity import tokens

    os.environ["RUNS_EMBEDDED_WORKER"] = "0"
    os.environ["API_THROTTLE_RATE"] = "600/min"  # the default
    with serving(tokens.create(user)[0]) as server:
        yield server


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Start trivial runs from another process, at a fixed rate."""
    process = subprocess.Popen([sys.executable, "-m", "bench.cluster_stop"])
    try:
        time.sleep(3)  # until it is ready
        yield
        assert process.poll() is None, "no run was started in the background"
    finally:
        process.terminate()
        process.wait()


def _start_forever() -> None:
    import django

    django.setup()
    register_agents()
    from django.contrib.auth.models import User

    from runs.actions import starting

    user = User.objects.get(username="bench")
    due = time.monotonic()
    while True:
        starting.start_run("bench-trivial", {}, owner=user)
        due += 1 / STARTS_PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    _start_forever()
