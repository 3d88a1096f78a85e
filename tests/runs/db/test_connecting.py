"""How long a caller waits for PostgreSQL: the longer the outage, the shorter the wait."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.db import connection
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
        kwargs=address, min_size=0, max_size=1, open=True, timeout=0.001
    )
    with pool:
        note_failure(pool)
        wait(60)
        note_failure(pool)
        pool.timeout = 0.001
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
