"""``python -m bench [NAME ...]``: measure, print a table, save the figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from . import (
    aborts,
    admin,
    cluster,
    cluster_feed,
    cluster_stop,
    feed,
    guards,
    latency,
    logins,
    many,
    queue,
    waiting,
)
from .measure import Figure, as_json, table

RESULTS = Path(__file__).parent / "results"
BENCHMARKS: dict[str, Callable[[], Iterator[Figure]]] = {
    "guards": guards.measure,
    "service": latency.measure_service,
    "rest": latency.measure_rest,
    "trivial": many.measure_trivial,
    "events": many.measure_events,
    "1000": many.measure_1000,
    "5000": many.measure_5000,
    "feed": feed.measure,
    "admin": admin.measure,
    "queue": queue.measure,
    "waiting": waiting.measure,
}
#: Benchmarks with separate worker processes. They need DATABASE_URL and REDIS_URL.
CLUSTER: dict[str, Callable[[], Iterator[Figure]]] = {
    "cluster-queue": queue.measure_postgres,
    "cluster-throughput": cluster.measure_throughput,
    "cluster-events": cluster.measure_events,
    "cluster-10000": cluster.measure_10000,
    "cluster-latency": cluster_stop.measure_latency,
    "cluster-feed": cluster_feed.measure_feed,
    "cluster-retention": cluster_feed.measure_retention,
    "logins": logins.measure,
    "aborts": aborts.measure,
    "cluster-latency-load": cluster_stop.measure_latency_under_load,
}


def main(names: list[str]) -> int:
    if names[:1] == ["peers"]:
        from .peers import compare

        return compare.main(names[1:])
    known = BENCHMARKS | CLUSTER
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; known: {', '.join(known)}")
        return 2
    if not names:
        names = list(known if _has_cluster() else BENCHMARKS)
        if not _has_cluster():
            print(
                f"DATABASE_URL or REDIS_URL is not set: skipping {', '.join(CLUSTER)}",
                file=sys.stderr,
            )
    figures: list[Figure] = []
    failed = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        found = _in_own_process(name)
        if found is None:
            failed.append(name)
        figures += found or []
    print(table(figures))
    about = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "failed": failed,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(as_json(figures, about))
    print(f"\n{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 1 if failed else 0


def _has_cluster() -> bool:
    return os.environ.get("DATABASE_URL", "").startswith("postgres") and "REDIS_URL" in os.environ


def _in_own_process(name: str) -> list[Figure] | None:
    command = [sys.executable, "-m", "bench", "--one", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, check=False)
    if done.returncode:
        print(f"{name} failed with {done.returncode}", file=sys.stderr)
        return None
    return [Figure(**figure) for figure in json.loads(done.stdout.splitlines()[-1])]


def one(name: str) -> None:
    figures = list((BENCHMARKS | CLUSTER)[name]())
    print(json.dumps(json.loads(as_json(figures, {}))["figures"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:]))
