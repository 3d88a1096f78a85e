"""Stops have connections of their own, when requests hold all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections

from runs.actions import stopping
from runs.db import lending
from runs.status import Status
from runs.wire import run_as_dict
from tests.support.rows import make_run
from tests.support.running import in_thread

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]


@pytest.fixture
def reserve(transactional_db: None) -> Iterator[lending.Reserve]:
    made = lending.Reserve("reserve-of-a-test", 1)
    made.open()
    made._wrapper().pool.wait(10)  # it connects in the background
    yield made
    made.close()
    made.close()  # may be repeated


@pytest.fixture
def exhausted(transactional_db: None) -> Iterator[None]:
    """Take all connections of the pool, so that the next caller waits in vain."""
    pool: Any = connection.pool  # type: ignore[attr-defined]
    connection.ensure_connection()
    connection.close()  # the pool is open
    pool.wait(10)
    held = [pool.getconn(timeout=10) for _ in range(pool.max_size)]
    patience, pool.timeout = pool.timeout, 0.2
    yield
    pool.timeout = patience
    for one in held:
        pool.putconn(one)


def lent(reserve: lending.Reserve, work: Any, *arguments: Any) -> Any:
    def in_request() -> Any:
        reserve.lend()
        try:
            return work(*arguments)
        finally:
            connections[DEFAULT_DB_ALIAS].close()

    with in_thread(in_request) as result:
        return result()


def test_a_stop_works_while_all_others_wait(
    reserve: lending.Reserve, request: pytest.FixtureRequest
) -> None:
    alice = User.objects.create_user("alice")
    run = make_run(alice)
    request.getfixturevalue("exhausted")
    with pytest.raises(OperationalError):
        User.objects.count()

    def stop() -> Any:
        by = User.objects.get(pk=alice.pk)  # read by the reserve's connection
        result = stopping.request_stop(run.pk, via="api", by=by)  # type: ignore[arg-type]
        assert result.run.owner == by
        return run_as_dict(result.run)

    stopped = lent(reserve, stop)
    assert (stopped["status"], stopped["stop"]["requested_by"]) == (Status.STOPPED, "alice")


def test_its_connection_comes_back(reserve: lending.Reserve) -> None:
    pids = {lent(reserve, _backend) for _ in range(5)}
    assert len(pids) == 1
    assert _backend() not in pids


def test_it_survives_a_restart_of_its_session(reserve: lending.Reserve) -> None:
    first = lent(reserve, _backend)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [first])
    assert lent(reserve, _backend) != first


def test_when_its_own_are_in_use_an_ordinary_one_does(reserve: lending.Reserve) -> None:
    def alias() -> str:
        return connections[DEFAULT_DB_ALIAS].alias

    def while_lent() -> tuple[str, str]:
        connection.ensure_connection()
        return alias(), lent(reserve, alias)

    assert lent(reserve, while_lent) == (reserve.name, "default")


def test_a_last_resort_is_lent_only_when_there_is_no_other(
    request: pytest.FixtureRequest,
) -> None:
    last = lending.Reserve("last-of-a-test", 1, is_last_resort=True)
    last.open()
    try:
        assert _backend() != 0
        assert lent(last, lambda: connections[DEFAULT_DB_ALIAS].alias) == "default"
        request.getfixturevalue("exhausted")
        assert lent(last, lambda: connections[DEFAULT_DB_ALIAS].alias) == last.name
    finally:
        last.close()


def test_one_that_is_not_open_changes_nothing() -> None:
    closed = lending.Reserve("never-opened", 1)
    assert lent(closed, lambda: connections[DEFAULT_DB_ALIAS].alias) == "default"


def _backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
