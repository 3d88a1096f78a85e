"""The live feed: delay, throughput, memory, and what many readers cost a run."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from .measure import Figure, distribution, ratio, single
from .server import Server, serving
from .site import fresh_site
from .subscribers import KINDS, Kind, Seen, subscribed

__all__ = ["measure"]

NAMES: dict[Kind, str] = {"socket": "WebSocket", "page": "WebSocket of the page", "sse": "SSE"}

CLOCK_COUNT, CLOCK_PAUSE = 300, 0.037  # no multiple of the 50 ms in which events are gathered
STOP_COUNT = 30
CROWDS = {1: 9_000, 50: 4_000, 200: 2_000}  # subscribers: events of the log that they read
IDLE = (200, 1_000)
IDLE_SECONDS = 10.0


def measure() -> Iterator[Figure]:
    """The server is one process, the subscribers are another."""
    with fresh_site() as user:
        from runs.identity import tokens

        token = tokens.create(user)[0]
        with serving(token) as server:
            yield from _delays(server)
            yield _stopping(server)
            yield from _rates(server)
        idle: tuple[Kind, ...] = ("socket", "sse")
        for kind in idle:
            with serving(token) as server:  # a fresh server: freed memory would be used again
                yield from _idle(server, kind)


def _delays(server: Server) -> Iterator[Figure]:
    """From an agent's line, inside the agent, to its arrival at a client."""
    for kind in KINDS:
        with _signal() as signal:
            run = server.start(
                "bench-clock", path=str(signal), count=CLOCK_COUNT, pause=CLOCK_PAUSE
            )
            with subscribed(server, run, kind, 1) as subscribers:
                subscribers.until_open()
                signal.touch()
                seen = subscribers.until_end()
        assert len(seen.delays) >= 0.9 * CLOCK_COUNT, len(seen.delays)
        delays = [delay * 1e3 for delay in seen.delays]
        yield distribution(
            f"an agent's event to its arrival, {NAMES[kind]}", "ms", delays, target=100
        )


def _stopping(server: Server) -> Figure:
    """From a stop to the frame that says "stopping"."""
    delays = []
    for _ in range(STOP_COUNT):
        run = server.start("bench-loop", pause=0.3)
        with subscribed(server, run, "page", 1) as subscribers:
            subscribers.until_open()
            server.until(run, "running")
            started = time.monotonic()
            server.stop(run)
            seen = subscribers.until_end()
        if seen.stopping_at:  # otherwise the run ended before the frame was sent
            delays.append((seen.stopping_at - started) * 1e3)
    return distribution("POST stop to the frame that says stopping", "ms", delays)


def _rates(server: Server) -> Iterator[Figure]:
    """Events through one process: live, of a run that logs at full speed, and replayed later."""
    alone, alone_stored = _unwatched(server, CROWDS[max(CROWDS)])
    yield alone
    yield alone_stored
    for count, events in CROWDS.items():
        for kind in KINDS:
            readers = f"{count} x {NAMES[kind]}"
            with _signal() as signal:
                run = server.start("bench-signal", path=str(signal), count=events)
                with subscribed(server, run, kind, count) as subscribers:
                    subscribers.until_open()
                    signal.touch()
                    live = subscribers.until_end()
            started = server.run(run)["result"]["started"]
            yield _rate(f"live to {readers}", live, live.last_at - started, count)
            if count == max(CROWDS):
                _, stored = _speed(server, run, events, f"a run's events, {readers} watching")
                yield stored
                yield ratio(f"a run with {readers} watching", stored, alone_stored)
            with subscribed(server, run, kind, count) as subscribers:
                subscribers.until_open()
                replay = subscribers.until_end()
            yield _rate(f"replay to {readers}", replay, replay.last_at - replay.started_at, count)
            assert live.events == replay.events == count * server.run(run)["last_seq"]


def _rate(name: str, seen: Seen, seconds: float, count: int) -> Figure:
    each = seen.events / count / seconds
    note = f"{each:,.0f} a second to each"
    return single(f"events {name}", "1/s", seen.events / seconds, count=seen.events, note=note)


def _unwatched(server: Server, events: int) -> tuple[Figure, Figure]:
    with _signal() as signal:
        run = server.start("bench-signal", path=str(signal), count=events)
        server.until(run, "running")
        signal.touch()
        return _speed(server, run, events, "a run's events, none watching")


def _speed(server: Server, run: str, events: int, name: str) -> tuple[Figure, Figure]:
    """Return how fast a run logged, and how fast its events were stored."""
    record = server.until(run, "success")
    result = record["result"]
    logged = result["ended"] - result["started"]
    stored = datetime.fromisoformat(record["finished_at"]).timestamp() - result["started_at"]
    return (
        single(f"{name}: emitted", "1/s", events / logged, count=events),
        single(f"{name}: ended and stored", "1/s", events / stored, count=events),
    )


def _idle(server: Server, kind: Kind) -> Iterator[Figure]:
    """Readers of a run in which nothing happens."""
    run = server.start("bench-loop", pause=5)
    server.until(run, "running")
    with subscribed(
        server, run, kind, 1
    ) as subscribers:  # objects that the first reader creates for all
        subscribers.until_open()
        yield _processor(server, f"1 idle {NAMES[kind]}")
        before = server.resident_kib()
    for count in IDLE:
        with subscribed(server, run, kind, count) as subscribers:
            subscribers.until_open()
            each = (server.resident_kib() - before) / count
            threads = server.thread_count()
            name = f"idle {NAMES[kind]}"
            yield single(f"memory of each of {count:,} {name}", "KiB", each, count=count)
            yield single(f"threads with {count:,} {name}", "", threads)
            yield _processor(server, f"{count:,} {name}")
    server.stop(run)


def _processor(server: Server, name: str) -> Figure:
    time.sleep(1)  # connecting is measured by another figure
    started, taken = time.monotonic(), server.processor_seconds()
    time.sleep(IDLE_SECONDS)
    share = (server.processor_seconds() - taken) / (time.monotonic() - started)
    return single(f"processor with {name}", "%", share * 100, note="of one core")


@contextlib.contextmanager
def _signal() -> Iterator[Path]:
    """Return the path of the file for which an agent waits."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder) / "go"
