"""The live feed of runs in other processes, and the removal of old runs during normal work."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measure import Figure, distribution, ratio, single
from .server import Server, serving
from .site import fresh_cluster, register_agents
from .subscribers import Kind, subscribed
from .workers import working

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["measure_feed", "measure_retention"]

CLOCK_COUNT, CLOCK_PAUSE = 300, 0.037  # not a multiple of the 50 ms for which events are gathered
CROWDS = {1: 9_000, 50: 4_000, 200: 2_000}  # subscribers: events that each one reads
OLD_RUNS, OLD_EVENTS = 20_000, 10
BRIEF_RUNS = 200


def measure_feed() -> Iterator[Figure]:
    """Subscribers of a web process that runs no agents. The worker is another process."""
    with fresh_cluster() as user:
        os.environ["RUNS_EMBEDDED_WORKER"] = "0"
        from runs.identity import tokens

        token = tokens.create(user)[0]
        with serving(token) as server, working(1):
            kinds: tuple[Kind, ...] = ("socket", "sse")
            for kind in kinds:
                yield _delay(server, kind)
            for count, events in CROWDS.items():
                for kind in kinds:
                    yield _rate(server, kind, count, events)


def _delay(server: Server, kind: Kind) -> Figure:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        go = Path(folder) / "go"
        run = server.start("bench-clock", path=str(go), count=CLOCK_COUNT, pause=CLOCK_PAUSE)
        with subscribed(server, run, kind, 1) as subscribers:
            subscribers.until_open()
            go.touch()
            seen = subscribers.until_end()
    return distribution(
        f"an agent's event to its arrival, across processes, {kind}",
        "ms",
        [delay * 1e3 for delay in seen.delays],
        target=150,
    )


def _rate(server: Server, kind: Kind, count: int, events: int) -> Figure:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        go = Path(folder) / "go"
        run = server.start("bench-signal", path=str(go), count=events)
        with subscribed(server, run, kind, count) as subscribers:
            subscribers.until_open()
            go.touch()
            seen = subscribers.until_end()
    record = server.run(run)
    assert seen.events == count * record["last_seq"]
    seconds = seen.last_at - record["result"]["started"]
    each = seen.events / count / seconds
    return single(
        f"events of another process to {count} x {kind}",
        "1/s",
        seen.events / seconds,
        count=seen.events,
        note=f"{each:,.0f} a second to each",
    )


def measure_retention() -> Iterator[Figure]:
    """The removal of old runs, and how long a brief run takes during it."""
    with fresh_cluster() as user, working(1):
        register_agents()
        _make_old_runs(user)
        alone = _brief(user, "a brief run, start to end")
        yield alone
        removal = subprocess.Popen(
            [sys.executable, "manage.py", "delete_old_runs", "--older-than", "30d"],
            stdout=subprocess.PIPE,
            env=os.environ,
            text=True,
        )
        started = time.perf_counter()
        while _old_count() == OLD_RUNS:
            time.sleep(0.01)
        during = _brief(user, "the same during the removal")
        assert removal.poll() is None, "the removal ended too soon to slow any run"
        output, _ = removal.communicate(timeout=300)
        seconds = time.perf_counter() - started
        assert f"{OLD_RUNS} runs" in output, output
        yield during
        yield ratio("a brief run during the removal of old runs", during, alone)
        note = f"with {OLD_EVENTS} events each, pauses of 50 ms included"
        yield single("old runs removed", "1/s", OLD_RUNS / seconds, count=OLD_RUNS, note=note)


def _make_old_runs(user: User) -> None:
    from django.db import connection
    from django.utils import timezone

    from runs.models import RunEvent, RunInput, RunRecord, uuid7

    at = timezone.now() - timedelta(days=90)
    for start in range(0, OLD_RUNS, 2_000):
        runs = []
        for number in range(start, start + 2_000):
            id, created = uuid7(), at + timedelta(seconds=number)
            runs.append(
                RunRecord(
                    id=id,
                    root_id=id,
                    agent="old",
                    owner=user,
                    status="success",
                    created_at=created,
                    started_at=created,
                    finished_at=created,
                    attempt=1,
                    last_seq=OLD_EVENTS,
                )
            )
        RunRecord.objects.bulk_create(runs)
        RunInput.objects.bulk_create(RunInput(run=run, value={}) for run in runs)
        RunEvent.objects.bulk_create(
            RunEvent(run=run, seq=seq, ts=at, type="log", agent="old", depth=0, source="agent")
            for run in runs
            for seq in range(1, OLD_EVENTS + 1)
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _old_count() -> int:
    from runs.models import RunRecord

    return int(RunRecord.objects.filter(agent="old").count())


def _brief(user: User, name: str) -> Figure:
    from runs.actions import starting
    from runs.models import RunRecord

    spans: list[Any] = []
    for number in range(BRIEF_RUNS):
        run, _ = starting.start_run("bench-trivial", {"number": number}, owner=user)
        while not (ended := RunRecord.objects.filter(pk=run.pk).get().finished_at):
            time.sleep(0.001)
        spans.append((ended - run.created_at).total_seconds() * 1e3)
    return distribution(name, "ms", spans)
