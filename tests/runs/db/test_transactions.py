"""Writes that must not be repeated, and callers that wait for a database that is away."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import DataError, InterfaceError, OperationalError, connection

from agents import AgentStopped
from runs.db import transactions
from runs.db.transactions import NothingWritten, patiently, whole_or_not_at_all
from runs.models import RunRecord
from tests.support.rows import make_run

pytestmark = pytest.mark.django_db(transaction=True)


class TestBrokenConnection:
    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    def test_before_the_commit_writes_nothing(self, alice: User, error: type[Exception]) -> None:
        def insert() -> None:
            with whole_or_not_at_all():
                make_run(alice)
                raise error("the connection is broken")

        with pytest.raises(NothingWritten, match="broken"):
            insert()
        assert not RunRecord.objects.exists()

    def test_during_the_commit_leaves_the_result_unknown(
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

    def test_a_refused_write_keeps_its_error(self, alice: User) -> None:
        with pytest.raises(DataError), whole_or_not_at_all():
            raise DataError("too long")


async def test_a_caller_that_must_give_up_gets_that_error_and_no_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first try at a database that hangs takes all the time."""

    async def hang() -> None:
        raise OperationalError("at last")

    def give_up() -> None:
        raise AgentStopped

    monkeypatch.setattr(transactions, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(AgentStopped):
        await patiently(hang, before_retry=give_up)
    with pytest.raises(OperationalError):
        await patiently(hang, before_retry=lambda: None)
