"""The servers that tests may stop do stop, freeze and restart."""

from __future__ import annotations

import select
import socket
from contextlib import closing

import psycopg
import pytest

from tests.support.databases import drop_database
from tests.support.services import PrivatePostgres, PrivateRedis


def test_postgres_stops_and_starts_again(private_postgres: PrivatePostgres) -> None:
    url = private_postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    held = psycopg.connect(url)
    with private_postgres.away():
        assert not private_postgres.answers()
        with pytest.raises(psycopg.OperationalError):
            held.execute("SELECT 1")
    held.close()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    copy = private_postgres.new_database(template=url.rpartition("/")[2])
    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    for one in (copy, url):
        drop_database(one)


def test_postgres_freezes_with_all_its_connections(private_postgres: PrivatePostgres) -> None:
    with closing(psycopg.connect(private_postgres.url("postgres"))) as connection:
        with private_postgres.paused():
            connection.pgconn.send_query(b"SELECT 1")
            assert not _answers_within(connection, 0.3)
        assert _answers_within(connection, 10)


def test_postgres_breaks_connections(private_postgres: PrivatePostgres) -> None:
    with closing(psycopg.connect(private_postgres.url("postgres"))) as connection:
        private_postgres.break_connections()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_redis_stops_freezes_and_starts_again(private_redis: PrivateRedis) -> None:
    with private_redis.away():
        assert not private_redis.answers()
    assert private_redis.answers()
    address = ("127.0.0.1", private_redis.port)
    with private_redis.paused(), socket.create_connection(address, timeout=0.3) as connection:
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert private_redis.answers()


def _answers_within(connection: psycopg.Connection, seconds: float) -> bool:
    return bool(select.select([connection.pgconn.socket], [], [], seconds)[0])
