"""Many runs in one process: memory, the time to stop all of them, runs a second."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator

from .measure import Figure, single
from .processes import resident_kib
from .site import fresh_site, register_agents, seconds_until

__all__ = ["measure_1000", "measure_5000", "measure_events", "measure_trivial"]


def measure_1000() -> Iterator[Figure]:
    yield from _in_flight(1_000, stop_target=1.0)


def measure_5000() -> Iterator[Figure]:
    yield from _in_flight(5_000, memory_target=16)


def _in_flight(
    count: int, *, stop_target: float | None = None, memory_target: float | None = None
) -> Iterator[Figure]:
    pause = count / 10_000  # seconds: 10,000 awaits end each second, for any number of runs
    with fresh_site() as user:
        register_agents()
        from runs.actions import starting, stopping
        from runs.delivery import local_runs
        from runs.models import RunRecord, StopVia
        from runs.worker.worker import Worker

        worker = Worker()
        worker.start_threads()
        try:
            first, _ = starting.start_run("bench-loop", {"pause": pause}, owner=user)
            seconds_until(lambda: _started_count() == 1)
            gc.collect()
            before = resident_kib(os.getpid())
            others = [
                starting.start_run("bench-loop", {"pause": pause}, owner=user)[0]
                for _ in range(count - 1)
            ]
            ids = [run.pk for run in (first, *others)]
            seconds_until(lambda: _started_count() == count)
            time.sleep(0.5)  # until the last starts are written
            gc.collect()
            per_run = (resident_kib(os.getpid()) - before) / (count - 1)
            started = time.perf_counter()
            stopping.stop_many(ids, by=user, via=StopVia.API)
            requested = time.perf_counter() - started
            seconds_until(lambda: not RunRecord.objects.active().exists())
            took = time.perf_counter() - started
            stopped = RunRecord.objects.filter(status="stopped").count()
            assert stopped == count, f"{stopped} of {count} are stopped"
            seconds_until(lambda: not local_runs.all_runs())
        finally:
            worker.stop_threads()
        yield single(
            f"memory of each of {count:,} in flight",
            "KiB",
            per_run,
            count=count,
            target=memory_target,
            note="resident size of the process that serves and runs them",
        )
        yield single(f"stop all of {count:,}: requested and committed", "s", requested, count=count)
        yield single(
            f"stop all of {count:,}: the last one is stopped",
            "s",
            took,
            count=count,
            target=stop_target,
            note=f"agents check every {pause:g} s",
        )


def measure_trivial() -> Iterator[Figure]:
    """Runs with record, input and trace, from the first start to the last final state."""
    count = 2_000
    with fresh_site() as user:
        register_agents()
        from runs.actions import starting
        from runs.models import RunEvent, RunRecord
        from runs.worker.worker import Worker

        worker = Worker()
        worker.start_threads()
        try:
            for number in range(50):
                starting.start_run("bench-trivial", {"number": number}, owner=user)
            seconds_until(lambda: not RunRecord.objects.active().exists())
            started = time.perf_counter()
            for number in range(count):
                starting.start_run("bench-trivial", {"number": number}, owner=user)
            starting = time.perf_counter() - started
            seconds_until(lambda: not RunRecord.objects.active().exists())
            took = time.perf_counter() - started
            assert RunEvent.objects.filter(type="agent_end").count() == count + 50
        finally:
            worker.stop_threads()
        yield single("trivial runs", "1/s", count / took, count=count, target=600, at_least=True)
        yield single("trivial runs started at the same time", "1/s", count / starting, count=count)


def measure_events() -> Iterator[Figure]:
    count, runs = 9_000, 5
    with fresh_site() as user:
        register_agents()
        from runs.actions import starting
        from runs.models import RunEvent, RunRecord
        from runs.worker.worker import Worker

        worker = Worker()
        worker.start_threads()
        try:
            starting.start_run("bench-events", {"count": 10}, owner=user)
            seconds_until(lambda: not RunRecord.objects.active().exists())
            started = time.perf_counter()
            for _ in range(runs):
                starting.start_run("bench-events", {"count": count}, owner=user)
            seconds_until(lambda: not RunRecord.objects.active().exists())
            took = time.perf_counter() - started
            assert RunEvent.objects.filter(type="log").count() == count * runs + 10
        finally:
            worker.stop_threads()
        yield single("events emitted and stored", "1/s", count * runs / took, count=count * runs)


def _started_count() -> int:
    from runs.delivery import local_runs

    return sum(entry.guard is not None for entry in local_runs.all_runs())
