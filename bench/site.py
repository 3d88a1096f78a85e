"""A Django site for the benchmarks: a fresh SQLite file, and agents to measure with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["MAX_IN_FLIGHT", "fresh_cluster", "fresh_site", "register_agents", "seconds_until"]

MAX_IN_FLIGHT = 12_000


@contextlib.contextmanager
def fresh_site() -> Iterator[User]:
    """Set Django up on a new SQLite file, in one process; yield a user who owns the runs."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        os.environ.pop("REDIS_URL", None)
        with _site(f"sqlite:///{Path(folder) / 'bench.sqlite3'}") as user:
            yield user


@contextlib.contextmanager
def fresh_cluster() -> Iterator[User]:
    """Set Django up on a new PostgreSQL database, with Redis, for many processes.

    DATABASE_URL and REDIS_URL name the servers; the database in DATABASE_URL is not touched.

    Raises:
        RuntimeError: one of them is not set.
    """
    server, redis = os.environ.get("DATABASE_URL", ""), os.environ.get("REDIS_URL", "")
    if not server.startswith("postgres") or not redis:
        raise RuntimeError(
            "this benchmark needs DATABASE_URL=postgres://... and REDIS_URL=redis://..."
        )
    import psycopg
    from psycopg import sql

    name = f"bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with _site(urlsplit(server)._replace(path=f"/{name}").geturl()) as user:
                yield user
        finally:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


@contextlib.contextmanager
def _site(database_url: str) -> Iterator[User]:
    """Set Django up on an empty database, as in production."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DJANGO_DEBUG": "0",
        "DJANGO_SECRET_KEY": "only for benchmarks: they use loopback, and end by themselves",
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
        "DATABASE_URL": database_url,
        "RUNS_MAX_CONCURRENT": str(MAX_IN_FLIGHT),
        "API_THROTTLE_RATE": "0",
    }
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    try:
        yield User.objects.create_user("bench", password=None)
    finally:
        connections.close_all()
        getattr(connections["default"], "close_pool", lambda: None)()  # SQLite has no pool


def register_agents() -> None:
    """Register the agents that are measured."""
    from agents import AgentStopped, SyncTools, Tools, agent, check_should_stop

    @agent("bench-trivial")
    async def trivial(tools: Tools, number: int = 0) -> int:
        return number

    @agent("bench-first-line")
    async def first_line(tools: Tools) -> float:
        return time.perf_counter()

    @agent("bench-loop")
    async def loop(tools: Tools, pause: float = 0.001) -> float:
        """Wait in short awaits; after a stop, return the instant at which it was observed."""
        try:
            while True:
                await asyncio.sleep(pause)
                check_should_stop()
        except AgentStopped:
            return time.perf_counter()

    @agent("bench-model")
    async def model(tools: Tools) -> str:
        return (await tools.call_llm([{"role": "user", "content": "Go on for ever."}])).text

    @agent("bench-block")
    async def block(tools: Tools, seconds: float) -> None:
        time.sleep(seconds)  # which an agent must not do

    @agent("bench-compute")
    def compute(tools: SyncTools, seconds: float) -> int:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            count += 1
        return count

    @agent("bench-events")
    async def events(tools: Tools, count: int) -> int:
        for number in range(count):
            tools.log(f"line {number} of a log like any other")
            if not number % 100:
                await asyncio.sleep(0)
        return count

    @agent("bench-signal")
    async def signal(tools: Tools, path: str, count: int, text: str = "") -> dict[str, float]:
        """Wait for a file, then log as fast as possible; return when that started and ended."""
        while not Path(path).exists():
            await asyncio.sleep(0.02)
        times = {"started": time.monotonic(), "started_at": time.time()}
        for number in range(count):
            tools.log(f"line {number} of a log like any other")
            if not number % 100:
                await asyncio.sleep(0)
        return times | {"ended": time.monotonic()}

    @agent("bench-clock")
    async def clock(tools: Tools, path: str, count: int, pause: float) -> None:
        """Wait for a file, then write the time in each line."""
        while not Path(path).exists():
            await asyncio.sleep(0.02)
        for _ in range(count):
            tools.log(f"at {time.monotonic()}")
            await asyncio.sleep(pause)


def seconds_until(
    condition: Callable[[], bool], limit: float = 120.0, *, pause: float = 0.002
) -> float:
    """Return how long it took until ``condition()``; it is called every ``pause`` seconds."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > limit:
            raise TimeoutError(f"the condition did not become true in {limit} s")
        time.sleep(pause)
    return time.perf_counter() - started


def over(run: uuid.UUID) -> Any:
    """Wait for the end of ``run``, as another process would; return its record."""
    from runs.models import RunRecord

    while True:
        record = RunRecord.objects.get(pk=run)
        if record.is_terminal:
            return record
        time.sleep(0.0005)
