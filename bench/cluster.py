"""Worker processes on PostgreSQL and Redis: throughput, memory, scaling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .measure import Figure, single
from .processes import resident_kib
from .site import fresh_cluster, register_agents, seconds_until
from .workers import working

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["measure_10000", "measure_events", "measure_throughput"]

TRIVIAL = 3_000
WORKERS = (1, 2, 4)
IN_FLIGHT = 10_000
EVENTS, EVENT_RUNS = 9_000, 4


def measure_throughput() -> Iterator[Figure]:
    """Queued runs, from the first claim to the last end, with 1, 2 and 4 workers."""
    with fresh_cluster() as user:
        register_agents()
        for count in WORKERS:
            ids = _queue(user, "bench-trivial", TRIVIAL)
            with working(count):
                seconds_until(lambda: not _active().exists(), pause=0.05)
            started, ended = _span(ids)
            yield single(
                f"trivial runs by {count} worker{'s' if count > 1 else ''}",
                "1/s",
                TRIVIAL / (ended - started),
                count=TRIVIAL,
                note="queued in advance; from first claim to last end",
            )


def measure_events() -> Iterator[Figure]:
    """Events emitted by agents and committed, with 1 and 2 workers."""
    with fresh_cluster() as user:
        register_agents()
        for count in (1, 2):
            ids = _queue(user, "bench-events", EVENT_RUNS, count=EVENTS)
            with working(count, RUNS_MAX_CONCURRENT=str(EVENT_RUNS // count)):
                seconds_until(lambda: not _active().exists(), pause=0.05)
            started, ended = _span(ids)
            yield single(
                f"events into PostgreSQL by {count} worker{'s' if count > 1 else ''}",
                "1/s",
                EVENTS * EVENT_RUNS / (ended - started),
                count=EVENTS * EVENT_RUNS,
            )


def measure_10000() -> Iterator[Figure]:
    """10,000 runs in flight in one worker process; then this process stops them all."""
    with fresh_cluster() as user, working(1) as (worker,):
        register_agents()
        from runs.actions import stopping
        from runs.models import RunRecord, StopVia

        _queue(user, "bench-loop", 1, pause=1.0)
        seconds_until(lambda: _started_count() == 1)
        before = resident_kib(worker.pid)
        started = time.perf_counter()
        _queue(user, "bench-loop", IN_FLIGHT - 1, pause=1.0)
        seconds_until(lambda: _started_count() == IN_FLIGHT, pause=0.1)
        yield single("10,000 started", "s", time.perf_counter() - started, count=IN_FLIGHT)
        time.sleep(1)
        yield single(
            "memory of each of 10,000 in one worker's process",
            "KiB",
            (resident_kib(worker.pid) - before) / (IN_FLIGHT - 1),
            count=IN_FLIGHT,
            target=16,
        )
        ids = list(RunRecord.objects.values_list("pk", flat=True))
        started = time.perf_counter()
        stopping.stop_many(ids, by=user, via=StopVia.API)
        yield single(
            "stop all of 10,000: requested and committed", "s", time.perf_counter() - started
        )
        seconds_until(lambda: not _active().exists(), pause=0.02)
        yield single(
            "stop all of 10,000: the last one is stopped",
            "s",
            time.perf_counter() - started,
            count=IN_FLIGHT,
            note="agents check every second",
        )
        assert RunRecord.objects.filter(status="stopped").count() == IN_FLIGHT


def _queue(user: User, agent: str, runs: int, **input: Any) -> list[Any]:
    from runs.actions import starting

    return [starting.start_run(agent, input, owner=user)[0].pk for _ in range(runs)]


def _active() -> Any:
    from runs.models import RunRecord

    return RunRecord.objects.active()


def _started_count() -> int:
    return int(_active().filter(status="running", last_seq__gte=1).count())


def _span(ids: list[Any]) -> tuple[float, float]:
    """Return when the first of these runs was claimed and when the last one ended, in seconds."""
    from django.db.models import Max, Min

    from runs.models import RunRecord

    runs = RunRecord.objects.filter(pk__in=ids)
    assert not runs.exclude(status="success").exists(), "some did not succeed"
    span = runs.aggregate(started=Min("started_at"), ended=Max("finished_at"))
    return span["started"].timestamp(), span["ended"].timestamp()
