"""Measure one system: ``python -m bench.peers.driver ADAPTER``, in the system's environment.

Prints a JSON object after each part: for each row its value, or a text that says why there is none.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from bench.processes import processor_seconds, resident_kib

__all__ = ["ROWS", "Adapter"]

#: The name of each row, its unit, and whether more is better.
ROWS = {
    "stop": ("stop, call -> job left", "ms", False),
    "stop p95": ("stop, call -> job left, p95", "ms", False),
    "final": ("stop, call -> final state readable", "ms", False),
    "early": ("final state shown before the job left", "of 50", False),
    "start": ("start, call -> first line", "ms", False),
    "start returns": ("start, call -> return", "ms", False),
    "trivial": ("2,000 trivial jobs, first call -> last done", "1/s", True),
    "many": ("of which starting them", "s", False),
    "memory 1000": ("memory per job in flight, 1,000", "KiB", False),
    "stop 1000": ("stop all of 1,000, call -> last one left", "s", False),
    "memory 5000": ("memory per job in flight, 5,000", "KiB", False),
    "check": ("one check", "ns", False),
    "idle memory": ("idle worker, memory", "MiB", False),
    "idle": ("idle worker, of one core", "%", False),
    "crash": ("SIGKILL, worker restarted -> record true", "s", False),
}
STARTS, STOPS, TRIVIAL = 100, 50, 2_000
LONGEST = 30.0  # seconds that anything may take
ENOUGH = 75.0  # seconds after which no other part begins
IDLE_SECONDS = 10.0


class Adapter(Protocol):
    """How a system declares jobs (see ``jobs.NAMES``), starts, stops and reads them.

    Its module also has ``work(concurrency)``, which a worker's process calls.

    Attributes:
        most_in_flight: how many jobs one worker process may have in flight.
        has_records: whether it can tell that a job is over.
        has_threads: whether each job in flight has a thread.
        checks: whether a job looks for a stop by a call that costs something: it has ``checks``.
    """

    most_in_flight: int
    has_records: bool
    has_threads: bool
    checks: bool

    def prepare(self) -> None:
        """Make the tables, and connect."""

    def start(self, job: str, key: str) -> Any:
        """Start a job; return its id once the system has it as durably as it ever does."""

    def start_many(self, job: str, keys: Sequence[str]) -> list[Any]:
        """Start jobs in the fastest way that the system has."""

    def stop(self, id: Any) -> None: ...

    def stop_many(self, ids: Sequence[Any]) -> None: ...

    def is_over(self, id: Any) -> bool:
        """Tell whether the record says that the job is over."""

    def close(self) -> None: ...


class Instants:
    """The file that jobs write into."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open()
        self._rest = ""  # the beginning of a line
        self._at: dict[tuple[str, str], int] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def read(self) -> dict[tuple[str, str], int]:
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            key, what, value = line.split()
            self._at.setdefault((key, what), int(value))
            self._counts[key, what] += 1
        return self._at

    def count(self, key: str, what: str) -> int:
        """Return how many times a job has written this: a job may be started again."""
        self.read()
        return self._counts[key, what]

    def of(self, key: str, what: str, limit: float = LONGEST) -> int:
        self.all_of([key], what, limit)
        return self._at[key, what]

    def all_of(self, keys: Sequence[str], what: str, limit: float = LONGEST) -> list[int]:
        """Wait for an instant of each job, and return them."""
        end = time.monotonic() + limit
        pause = 0.0005 if len(keys) == 1 else 0.02
        missing = list(keys)
        while missing := [key for key in missing if (key, what) not in self.read()]:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(missing)} of {len(keys)} jobs did not write {what!r}")
            time.sleep(pause)
        return [self._at[key, what] for key in keys]


class Measuring:
    def __init__(self, name: str, adapter: Adapter, folder: Path) -> None:
        self._name = name
        self.adapter = adapter
        self.instants = Instants(folder / "instants")
        self._log = folder / "worker.log"
        self._count = 0
        self._idle_kib = 0.0
        self.found: dict[str, float | str] = {}

    def run(self) -> None:
        """Measure all parts; a part that can't be measured leaves the others alone."""
        began = time.monotonic()
        parts: list[tuple[Callable[[int], None], int]] = [
            (self._latencies, 16),
            (self._idle, 100),
            (self._trivial, 100),
            (self._thousand, 1_100),
            (self._crash, 16),
            (self._five_thousand, 5_100),
        ]
        for part, concurrency in parts:
            why = ""
            if concurrency > self.adapter.most_in_flight:
                why = "a thread for each"
            elif time.monotonic() > began + ENOUGH:
                why = "no time left"
            else:
                try:
                    with self._worker(concurrency) as worker:
                        part(worker)
                except Exception as error:
                    print(f"{part.__name__}: {error!r}", file=sys.stderr)
                    why = str(error) or type(error).__name__
            for name in _ROWS_OF[part.__name__]:
                self.found.setdefault(name, why)
            print(json.dumps(self.found), flush=True)

    def _latencies(self, worker: int) -> None:
        for _ in range(5):
            self._start_once()
        took = [self._start_once() for _ in range(STARTS)]
        self.found["start"] = statistics.median(first for first, _ in took)
        self.found["start returns"] = statistics.median(back for _, back in took)
        for _ in range(3):
            self._stop_once()
        stops = [self._stop_once() for _ in range(STOPS)]
        lefts = sorted(left for left, _ in stops)
        self.found["stop"] = statistics.median(lefts)
        self.found["stop p95"] = lefts[int(0.95 * len(lefts))]
        if self.adapter.has_records:
            self.found["final"] = statistics.median(final for _, final in stops)
            self.found["early"] = sum(final < left for left, final in stops)
        else:
            self.found |= dict.fromkeys(("final", "early"), "no record")
        if not self.adapter.checks:
            self.found["check"] = "none"
            return
        key = self._key()
        self.adapter.start("checks", key)
        self.found["check"] = self.instants.of(key, "cost", 120) / 1000

    def _start_once(self) -> tuple[float, float]:
        key = self._key()
        started = time.monotonic_ns()
        self.adapter.start("first", key)
        back = time.monotonic_ns()
        return (self.instants.of(key, "first") - started) / 1e6, (back - started) / 1e6

    def _stop_once(self) -> tuple[float, float]:
        key = self._key()
        id = self.adapter.start("loop", key)
        self.instants.of(key, "first")
        time.sleep(random.uniform(0.02, 0.04))
        started = time.monotonic_ns()
        self.adapter.stop(id)
        if self.adapter.has_records:
            self._until_over(id)
        final = time.monotonic_ns()
        return (self.instants.of(key, "left") - started) / 1e6, (final - started) / 1e6

    def _until_over(self, id: Any, limit: float = LONGEST) -> None:
        end = time.monotonic() + limit
        while not self.adapter.is_over(id):
            if time.monotonic() > end:
                raise TimeoutError(f"not over within {limit:g} s")
            time.sleep(0.0005)

    def _idle(self, worker: int) -> None:
        self._start_once()
        time.sleep(2)
        before = sum(map(processor_seconds, _tree(worker)))
        time.sleep(IDLE_SECONDS)
        used = sum(map(processor_seconds, _tree(worker))) - before
        self.found["idle"] = 100 * used / IDLE_SECONDS
        self._idle_kib = self._kib(worker)
        self.found["idle memory"] = self._idle_kib / 1024

    def _trivial(self, worker: int) -> None:
        self._start_once()
        keys = [self._key() for _ in range(TRIVIAL)]
        started = time.monotonic_ns()
        self.adapter.start_many("first", keys)
        self.found["many"] = (time.monotonic_ns() - started) / 1e9
        last = max(self.instants.all_of(keys, "first", 60))
        self.found["trivial"] = TRIVIAL / ((last - started) / 1e9)

    def _thousand(self, worker: int) -> None:
        ids, keys = self._in_flight(worker, 1_000)
        started = time.monotonic_ns()
        self.adapter.stop_many(ids)
        last = max(self.instants.all_of(keys, "left"))
        self.found["stop 1000"] = (last - started) / 1e9

    def _five_thousand(self, worker: int) -> None:
        ids, keys = self._in_flight(worker, 5_000)
        self.adapter.stop_many(ids)  # or the next worker would take them up again
        self.instants.all_of(keys, "left")

    def _in_flight(self, worker: int, count: int) -> tuple[list[Any], list[str]]:
        warm = [self._key() for _ in range(20)]
        self.adapter.start_many("wait", warm)
        self.instants.all_of(warm, "first")
        time.sleep(1)
        before = self._idle_kib if self.adapter.has_threads else self._kib(worker)
        keys = [self._key() for _ in range(count)]
        ids = self.adapter.start_many("wait", keys)
        self.instants.all_of(keys, "first", 60)
        time.sleep(2)
        self.found[f"memory {count}"] = (self._kib(worker) - before) / count
        return ids, keys

    def _crash(self, worker: int) -> None:
        """Kill the worker, and start another: its record is true once it says that the job is over.

        Or once the job has started again.
        """
        if not self.adapter.has_records:
            self.found["crash"] = "no record"
            return
        key = self._key()
        id = self.adapter.start("wait", key)
        self.instants.of(key, "first")
        for pid in _tree(worker):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        with self._worker(16):
            try:
                while not self.adapter.is_over(id) and self.instants.count(key, "first") < 2:
                    if time.monotonic() > started + LONGEST:
                        self.found["crash"] = f"not within {LONGEST:g} s"
                        return
                    time.sleep(0.01)
                self.found["crash"] = time.monotonic() - started
            finally:
                with suppress(Exception):
                    self.adapter.stop(id)

    def _key(self) -> str:
        self._count += 1
        return f"k{self._count}"

    def _kib(self, worker: int) -> float:
        return sum(map(resident_kib, _tree(worker)))

    @contextmanager
    def _worker(self, concurrency: int) -> Iterator[int]:
        """Run a worker until the block ends; yield its process id once it takes jobs."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.peers.work", self._name, str(concurrency)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            key = self._key()
            self.adapter.start("first", key)
            self.instants.of(key, "first")
            yield process.pid
        except BaseException:
            print(self._log.read_bytes()[-3_000:].decode(errors="replace"), file=sys.stderr)
            raise
        finally:
            pids = _tree(process.pid)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


_ROWS_OF = {
    "_latencies": ("start", "start returns", "stop", "stop p95", "final", "early", "check"),
    "_crash": ("crash",),
    "_idle": ("idle", "idle memory"),
    "_trivial": ("many", "trivial"),
    "_thousand": ("memory 1000", "stop 1000"),
    "_five_thousand": ("memory 5000",),
}


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def main(name: str) -> None:
    random.seed(1)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        os.environ["PEERS_INSTANTS"] = f"{folder}/instants"
        adapter: Adapter = importlib.import_module(f"bench.peers.adapters.{name}").adapter()
        adapter.prepare()
        try:
            Measuring(name, adapter, Path(folder)).run()
        finally:
            adapter.close()


if __name__ == "__main__":
    main(sys.argv[1])
