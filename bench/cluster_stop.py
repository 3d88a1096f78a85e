"""Starts and stops that cross processes: one asks, another runs the agent.

Instants of both are compared, which is right on one machine: ``time.perf_counter()`` is the same
clock in all its processes.
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
    """One worker, one web process without one, and this process; nothing else is going on."""
    with fresh_cluster() as user, _web(user) as server, working(1):
        register_agents()
        yield from _starts(user, server)
        yield from _stops(user, server, "")


def measure_latency_under_load() -> Iterator[Figure]:
    """The same worker has a thousand runs in flight, and fifty more are started each second."""
    with fresh_cluster() as user, _web(user) as server, working(1):
        register_agents()
        from runs.actions import starting
        from runs.models import RunRecord

        for _ in range(IN_FLIGHT):
            starting.start_run("bench-loop", {"pause": 1.0}, owner=user)
        begun = RunRecord.objects.filter(status="running", last_seq__gte=1)
        seconds_until(lambda: begun.count() == IN_FLIGHT, pause=0.1)
        with _starting():
            yield from _stops(user, server, f", {IN_FLIGHT:,} in flight, 50 starts a second")


def _starts(user: User, server: Server) -> Iterator[Figure]:
    from runs.actions import starting

    def by_service() -> float:
        began = time.perf_counter()
        run, _ = starting.start_run("bench-first-line", {}, owner=user)
        return float(over(run.pk).result - began)

    def by_post() -> float:
        began = time.perf_counter()
        run = server.start("bench-first-line")
        return float(over(run).result - began)

    yield _distribution("service start to the agent's first line, across", by_service, 3.3)
    yield _distribution("POST /runs to the agent's first line, across", by_post)


def _stops(user: User, server: Server, load: str) -> Iterator[Figure]:
    from runs.actions import stopping
    from runs.models import StopVia

    ends: list[float] = []

    def ask_service(run: Any) -> None:
        stopping.request_stop(run, via=StopVia.API, by=user)

    def ask_post(run: Any) -> None:
        server.client.post(f"/runs/{run}/stop").raise_for_status()

    def stop(ask: Callable[[Any], None]) -> float:
        run = _one_that_loops(user)
        began = time.perf_counter()
        ask(run)
        record = over(run)
        ends.append((time.perf_counter() - began) * 1e3)
        assert record.status == "stopped", record.status
        return float(record.partial_result - began)

    yield _distribution(
        f"service stop to AgentStopped, across{load}", lambda: stop(ask_service), 4.0
    )
    yield distribution(f"service stop to a final state, across{load}", "ms", ends[WARM_UP:])
    ends.clear()
    yield _distribution(f"POST stop to AgentStopped, across{load}", lambda: stop(ask_post), 10.0)
    yield distribution(f"POST stop to a final state, across{load}", "ms", ends[WARM_UP:])


def _one_that_loops(user: User) -> Any:
    from runs.actions import starting
    from runs.models import RunRecord

    run, _ = starting.start_run("bench-loop", {}, owner=user)
    begun = RunRecord.objects.filter(pk=run.pk, last_seq__gte=1)
    seconds_until(begun.exists)
    time.sleep(random.uniform(0.005, 0.015))
    return run.pk


def _distribution(name: str, once: Callable[[], float], target: float | None = None) -> Figure:
    took = [once() * 1e3 for _ in range(COUNT + WARM_UP)]
    return distribution(name, "ms", took[WARM_UP:], target=target)


@contextlib.contextmanager
def _web(user: User) -> Iterator[Server]:
    from rest_framework.authtoken.models import Token

    os.environ["RUNS_EMBEDDED_WORKER"] = "0"
    os.environ["API_THROTTLE_RATE"] = "600/min"  # as it is unless somebody says otherwise
    with serving(Token.objects.create(user=user).key) as server:
        yield server


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Let a process of its own start trivial runs, so many a second."""
    process = subprocess.Popen([sys.executable, "-m", "bench.cluster_stop"])
    try:
        time.sleep(3)  # it has to come up
        yield
        assert process.poll() is None, "nothing was started meanwhile"
    finally:
        process.terminate()
        process.wait()


def _start_on_and_on() -> None:
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
    _start_on_and_on()
