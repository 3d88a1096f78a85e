"""A person's stop while two hundred clients guess passwords, or do something else in vain.

Needs DATABASE_URL with PostgreSQL: it is about connections.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

from .measure import Figure, distribution
from .server import Server, serving
from .site import fresh_cluster

__all__ = ["measure"]

CONNECTIONS = 200
SECONDS = 20
STOPS = 30

_ATTACKS = {
    "passwords at all doors": ("api-token", "login", "admin-login"),
    "wrong tokens": ("wrong-token",),
    "Basic headers, unknown sessions, the admin": ("basic", "session", "admin"),
}


def measure() -> Iterator[Figure]:
    """Measure a POST of a stop to its 202, from a process of its own."""
    with fresh_cluster() as user:
        from runs.identity import tokens

        os.environ["DATABASE_POOL_SIZE"] = "20"
        with serving(tokens.create(user)[0]) as server:
            yield _stops(server, "no client attacks", ())
            for words, doors in _ATTACKS.items():
                yield _stops(server, f"{CONNECTIONS} clients: {words}", doors)


def _stops(server: Server, what: str, doors: tuple[str, ...]) -> Figure:
    runs = [server.start("bench-loop", pause=0.1) for _ in range(STOPS)]
    for run in runs:
        server.until(run, "running")
    took = []
    with _flood(server, doors) as seen:
        for run in runs:
            started = time.perf_counter()
            answer = server.client.post(f"/runs/{run}/stop")
            took.append((time.perf_counter() - started) * 1e3)
            assert answer.status_code == 202, answer.text
            time.sleep(0.1)
    for run in runs:
        server.until(run, "stopped")
    note = ", ".join(f"{status}: {count}" for status, count in sorted(seen.items()))
    return distribution(
        f"POST stop, while {what}", "ms", took, target=1000 if doors else None, note=note
    )


class _flood:
    """The clients, in another process; ``with`` gives what they were answered, at its end."""

    def __init__(self, server: Server, doors: tuple[str, ...]) -> None:
        self._arguments = [str(server.port), str(SECONDS), str(CONNECTIONS), *doors]
        self._seen: Counter[str] = Counter()
        self._has_doors = bool(doors)

    def __enter__(self) -> Counter[str]:
        if self._has_doors:
            command = [sys.executable, "-m", "bench.flood", *self._arguments]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            time.sleep(3)  # until all are connected and at it
        return self._seen

    def __exit__(self, *_: object) -> None:
        if self._has_doors:
            out, _error = self._process.communicate(timeout=SECONDS * 10)
            self._seen.update(json.loads(out))
