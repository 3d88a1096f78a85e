"""The threads in which coroutines use the ORM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DataError, InterfaceError, OperationalError, connection

from agents import AgentStopped
from runs.db import transactions
from runs.db.threads import DatabaseThreads
from runs.db.transactions import NothingWritten, patiently, whole_or_not_at_all
from runs.models import RunRecord
from tests.support.rows import make_run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def threads() -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(1)
    yield threads
    threads.close()


def _query() -> int:
    RunRecord.objects.exists()
    return len(connection.queries_log)


def test_queries_are_not_remembered_in_debug(threads: DatabaseThreads, settings: Any) -> None:
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


class TestWholeOrNotAtAll:
    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    def test_before_the_commit_nothing_is_there(self, alice: User, error: type[Exception]) -> None:
        def be_born() -> None:
            with whole_or_not_at_all():
                make_run(alice)
                raise error("the connection is broken")

        with pytest.raises(NothingWritten, match="broken"):
            be_born()
        assert not RunRecord.objects.exists()

    def test_with_the_commit_nobody_knows(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def commit() -> None:
            committed()
            raise OperationalError("the connection is broken")

        committed = connection._commit
        monkeypatch.setattr(connection, "_commit", commit)
        with pytest.raises(OperationalError) as raised, whole_or_not_at_all():
            make_run(alice)
        assert not isinstance(raised.value, NothingWritten)
        assert RunRecord.objects.exists()

    def test_what_is_refused_would_be_refused_again(self, alice: User) -> None:
        with pytest.raises(DataError), whole_or_not_at_all():
            raise DataError("too long")


async def test_who_may_go_on_no_more_hears_that_though_time_is_up_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database that hangs takes all the time with the first try."""

    async def hang() -> None:
        raise OperationalError("at last")

    def go_on() -> None:
        raise AgentStopped

    monkeypatch.setattr(transactions, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(AgentStopped):
        await patiently(hang, before_retry=go_on)
    with pytest.raises(OperationalError):
        await patiently(hang, before_retry=lambda: None)
