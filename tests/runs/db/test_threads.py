"""The threads in which coroutines use the ORM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection

from runs.db.threads import DatabaseThreads
from runs.models import RunRecord

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def threads() -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(1)
    yield threads
    threads.close()


def _query() -> int:
    RunRecord.objects.exists()
    return len(connection.queries_log)


def test_queries_are_not_kept_in_debug_mode(threads: DatabaseThreads, settings: Any) -> None:
    settings.DEBUG = True
    assert [threads.submit(_query).result(5) for _ in range(3)] == [1, 1, 1]


def test_a_connection_that_failed_is_not_used_again(threads: DatabaseThreads) -> None:
    def identity() -> int:
        connection.ensure_connection()
        return id(connection.connection)

    def fail() -> None:
        raise OperationalError("gone")

    threads.submit(identity).result(5)
    with pytest.raises(OperationalError):
        threads.submit(fail).result(5)
    assert threads.submit(lambda: connection.connection is None).result(5)
