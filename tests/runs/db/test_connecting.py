"""How long one waits for PostgreSQL: the longer it has been away, the less."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.db import connection
from psycopg_pool import ConnectionPool, PoolTimeout

from runs.db import connecting
from runs.db.connecting import HURRY_SECONDS, PATIENCE_SECONDS, note_connection, note_failure


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    note_connection()
    yield
    note_connection()


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(connecting, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_all_who_wait_share_one_patience(wait: Callable[[float], None]) -> None:
    pool: Any = SimpleNamespace(timeout=PATIENCE_SECONDS, _lock=threading.Lock(), _waiting=deque())
    note_failure(pool)
    assert pool.timeout == PATIENCE_SECONDS
    wait(2)
    note_failure(pool)
    assert pool.timeout == PATIENCE_SECONDS - 2
    wait(60)
    note_failure(pool)
    assert pool.timeout == HURRY_SECONDS
    note_connection()
    assert pool.timeout == PATIENCE_SECONDS
    wait(60)
    note_failure(pool)
    assert pool.timeout == PATIENCE_SECONDS


def test_who_was_sent_away_is_not_kept_until_the_database_is_back() -> None:
    """A request of an hour's outage is some 25 kB, and its body."""
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        address = {"host": "127.0.0.1", "port": bound.getsockname()[1]}
        pool: ConnectionPool[Any] = ConnectionPool(kwargs=address, open=True, timeout=0.01)
        with pool:
            for _ in range(10):
                with pytest.raises(PoolTimeout):
                    pool.getconn()
            assert pool.get_stats()["requests_waiting"] == 10, "the workaround can go"
            note_failure(pool)
            assert pool.get_stats()["requests_waiting"] == 0


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_the_pool_and_django_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.ensure_connection()
    pool = cast("ConnectionPool[Any]", cast("Any", connection).pool)
    pool.reconnect_failed()
    pool.timeout = HURRY_SECONDS
    connection.close()
    connection.ensure_connection()
    assert pool.timeout == PATIENCE_SECONDS
