"""How long a caller waits for PostgreSQL, and how soon after an outage it gets a connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import DatabaseError, connection
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from runs.db import connecting
from runs.db.connecting import (
    HURRY_SECONDS,
    MOST_WAITING,
    PATIENCE_SECONDS,
    note_connection,
    note_failure,
)
from tests.support.server import eventually
from tests.support.services import PrivatePostgres

SOON_SECONDS = 1.0  # half a second, and as much again for a busy machine


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_away_since", None)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(connecting, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


@pytest.fixture
def address() -> Iterator[dict[str, Any]]:
    """Return an address on which no process listens, and on which none can start to listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield {"host": "127.0.0.1", "port": bound.getsockname()[1]}


def test_all_callers_share_one_wait(wait: Callable[[float], None]) -> None:
    pool: Any = SimpleNamespace(timeout=PATIENCE_SECONDS, max_waiting=0, check=lambda: None)
    note_failure(pool)
    assert pool.timeout == PATIENCE_SECONDS
    wait(2)
    note_failure(pool)
    assert pool.timeout == PATIENCE_SECONDS - 2
    assert pool.max_waiting == 0, "a restart refuses no caller"
    wait(60)
    note_failure(pool)
    assert pool.timeout == HURRY_SECONDS
    assert pool.max_waiting == MOST_WAITING
    note_connection(SimpleNamespace(pool=pool))
    assert pool.timeout == PATIENCE_SECONDS
    assert pool.max_waiting == 0
    wait(60)
    note_failure(pool)
    assert pool.timeout == PATIENCE_SECONDS


def test_a_connection_without_a_pool_changes_nothing(wait: Callable[[float], None]) -> None:
    pool: Any = SimpleNamespace(timeout=PATIENCE_SECONDS, max_waiting=0, check=lambda: None)
    note_failure(pool)
    note_connection(SimpleNamespace())  # SQLite
    note_connection(SimpleNamespace(pool=None))
    wait(60)
    note_failure(pool)
    assert pool.timeout == HURRY_SECONDS


def test_the_pool_keeps_few_refused_callers_in_memory(
    wait: Callable[[float], None], address: dict[str, Any]
) -> None:
    """During an outage of an hour, each request kept would be some 25 kB, and its body."""
    pool: ConnectionPool[Any] = ConnectionPool(
        kwargs=address, min_size=0, max_size=1, open=True, timeout=0.02
    )
    with pool:
        note_failure(pool)
        wait(60)
        note_failure(pool)
        pool.timeout = 0.02
        for _ in range(MOST_WAITING):
            with pytest.raises(PoolTimeout):
                pool.getconn()
        for _ in range(10):
            with pytest.raises(TooManyRequests):
                pool.getconn()
        assert pool.get_stats()["requests_waiting"] == MOST_WAITING


def test_the_pool_retries_although_no_caller_may_ask_it(
    wait: Callable[[float], None], address: dict[str, Any]
) -> None:
    pool: ConnectionPool[Any] = ConnectionPool(
        kwargs=address,
        min_size=0,
        max_size=1,
        open=True,
        timeout=0.001,
        reconnect_timeout=0.01,
        reconnect_failed=note_failure,
    )
    with pool:
        note_failure(pool)
        wait(60)
        note_failure(pool)  # nothing has called getconn()
        eventually(
            lambda: pool.get_stats().get("connections_errors", 0) > 5, "the pool retries by itself"
        )


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_the_pool_reports_failures_and_django_successes(wait: Callable[[float], None]) -> None:
    connection.ensure_connection()
    pool = cast("ConnectionPool[Any]", cast("Any", connection).pool)
    pool.reconnect_failed()
    wait(60)
    pool.reconnect_failed()
    assert (pool.timeout, pool.max_waiting) == (HURRY_SECONDS, MOST_WAITING)
    connection.close()
    connection.ensure_connection()
    assert (pool.timeout, pool.max_waiting) == (PATIENCE_SECONDS, 0)


class TestAfterAnOutage:
    """Each waiting caller gets a connection soon, though no other caller comes."""

    COUNT = 8

    @pytest.fixture
    def server(
        self, private_postgres: PrivatePostgres, django_db_blocker: Any
    ) -> Iterator[PrivatePostgres]:
        """Point the ORM at a server that may be stopped."""
        names = ("NAME", "HOST", "PORT", "USER", "PASSWORD")
        settings = connection.settings_dict
        before = {name: settings[name] for name in names}
        url = urlsplit(private_postgres.url("postgres"))
        _disconnect()
        settings.update(
            NAME="postgres", HOST=url.hostname, PORT=url.port, USER="client", PASSWORD=""
        )
        with psycopg.connect(private_postgres.url("postgres"), autocommit=True) as admin:
            admin.execute("DROP ROLE IF EXISTS client")
            admin.execute("CREATE ROLE client LOGIN")
        with django_db_blocker.unblock():
            yield private_postgres
            private_postgres.start()
            _disconnect()
        settings.update(before)

    @pytest.fixture
    def idle(self, server: PrivatePostgres) -> None:
        """Leave idle connections in the pool: those of requests that came at once."""
        together = threading.Barrier(self.COUNT)

        def request() -> None:
            _ask()
            together.wait(10)
            connection.close()

        with ThreadPoolExecutor(self.COUNT) as threads:
            for answer in [threads.submit(request) for _ in range(self.COUNT)]:
                answer.result(10)

    def _wait(self, threads: ThreadPoolExecutor, count: int = COUNT) -> list[Future[float]]:
        def ask() -> float:
            while True:  # as the threads of a worker do
                try:
                    _ask()
                except DatabaseError:
                    connection.close()
                    time.sleep(connecting.RETRY_SECONDS)
                else:
                    connection.close()
                    return time.monotonic()

        return [threads.submit(ask) for _ in range(count)]

    @pytest.mark.postgres
    @pytest.mark.usefixtures("idle")
    @pytest.mark.parametrize("how", ["stopped", "stopped for long", "full", "frozen"])
    def test_all_that_wait_are_served(
        self, how: str, server: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if how == "stopped for long":  # longer than callers wait patiently
            monkeypatch.setattr(connecting, "PATIENCE_SECONDS", 0.6)
        outage = {"frozen": server.paused, "full": lambda: _full(server)}.get(how, server.away)
        with ThreadPoolExecutor(self.COUNT) as threads:
            with outage():
                waiting = self._wait(threads)
                # All wait, and the pool has given up for the first time.
                time.sleep(1.5)
                assert not any(one.done() for one in waiting)
            back_at = time.monotonic()
            late = [one.result(20) - back_at for one in waiting]
        assert max(late) < SOON_SECONDS

    @pytest.mark.postgres
    @pytest.mark.usefixtures("idle")
    def test_no_caller_tries_one_dead_connection_after_the_other(
        self, server: PrivatePostgres
    ) -> None:
        """The server is there all the time, and all connections are cut."""
        server.break_connections()
        back_at = time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            [answer] = self._wait(threads, 1)
            assert answer.result(20) - back_at < SOON_SECONDS


def _ask() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@contextmanager
def _full(server: PrivatePostgres) -> Iterator[None]:
    """Have the server refuse the client's connections: there are too many (SQLSTATE 53300)."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute("ALTER ROLE client CONNECTION LIMIT 0")
        server.break_connections(but=admin.info.backend_pid)
        yield
        admin.execute("ALTER ROLE client CONNECTION LIMIT -1")


def _disconnect() -> None:
    connection.close()
    cast("Any", connection).close_pool()
