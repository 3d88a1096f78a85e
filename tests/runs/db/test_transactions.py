"""Writes that must not be repeated, and callers that wait for a database that is away."""

from __future__ import annotations

import select
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
)
from django.utils import timezone

from agents import AgentStopped
from runs.db import transactions
from runs.db.transactions import (
    NothingWritten,
    patiently,
    proves_no_commit,
    whole_or_not_at_all,
)
from runs.models import RunEvent, RunRecord, uuid7
from tests.support.rows import make_run
from tests.support.running import in_thread
from tests.support.server import eventually

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


@pytest.mark.postgres
class TestAnErrorThatAnswersCommit:
    """What it proves, as PostgreSQL really gives it."""

    def test_idle_for_too_long_proves_that_nothing_was_written(self, alice: User) -> None:
        """The process was frozen before it sent the COMMIT."""

        def freeze() -> None:
            # Long enough that the goodbye comes alone: libpq throws it away if it comes with the
            # answer to this statement.
            _execute("SET LOCAL idle_in_transaction_session_timeout = 500")
            _until_the_server_says_goodbye()

        error = _insert_and_commit(alice, freeze)
        assert (type(error), _state(error)) == (NothingWritten, "25P03")
        assert not RunRecord.objects.exists()

    def test_an_administrators_command_before_it(self, alice: User) -> None:
        def terminate() -> None:
            _as_administrator("SELECT pg_terminate_backend(%s)", _pid())
            _until_the_server_says_goodbye()

        error = _insert_and_commit(alice, terminate)
        assert (type(error), _state(error)) == (NothingWritten, "57P01")
        assert not RunRecord.objects.exists()

    @pytest.mark.parametrize(
        ("command", "state"), [("pg_terminate_backend", "57P01"), ("pg_cancel_backend", "57014")]
    )
    def test_an_administrators_command_while_it_commits(
        self, alice: User, command: str, state: str
    ) -> None:
        connection.ensure_connection()
        pid = _pid()

        def interrupt() -> None:
            sleeps = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            eventually(lambda: _as_administrator(sleeps, pid), "it commits", 10)
            _as_administrator(f"SELECT {command}(%s)", pid)

        with in_thread(interrupt), _at_commit("PERFORM pg_sleep(20);"):
            error = _insert_and_commit(alice)
        assert (type(error), _state(error)) == (NothingWritten, state)
        assert not RunRecord.objects.exists()

    def test_a_serialization_failure(self, alice: User) -> None:
        """Each of two transactions has read what the other one writes."""

        def read() -> None:
            _execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            assert not RunRecord.objects.exists()

        def read_and_write() -> None:
            with whole_or_not_at_all():
                read()
                make_run(alice)

        def meanwhile() -> None:
            with in_thread(read_and_write) as wait:
                wait()

        error = _insert_and_commit(alice, meanwhile, before=read)
        assert (type(error), _state(error)) == (NothingWritten, "40001")
        assert RunRecord.objects.count() == 1

    def test_a_deferred_constraint_refuses_for_ever(self, alice: User) -> None:
        def insert() -> None:
            RunEvent.objects.create(run_id=uuid7(), seq=1, ts=timezone.now(), depth=0)

        error = _insert_and_commit(alice, insert)
        assert (type(error), _state(error)) == (IntegrityError, "23503")
        assert proves_no_commit(error)
        assert not RunRecord.objects.exists()

    @pytest.mark.parametrize("state", ["40P01", "55P03", "25P04"])
    def test_these_prove_it_too(self, alice: User, state: str) -> None:
        with _at_commit(f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}';"):
            error = _insert_and_commit(alice)
        assert (type(error), _state(error)) == (NothingWritten, state)
        assert not RunRecord.objects.exists()

    @pytest.mark.parametrize(
        "state", ["40003", "57P02", "57P03", "57P05", "53100", "53200", "58030", "08006", "08007"]
    )
    def test_these_leave_it_unknown(self, alice: User, state: str) -> None:
        with _at_commit(f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}';"):
            error = _insert_and_commit(alice)
        assert _state(error) == state
        assert not isinstance(error, NothingWritten)

    def test_a_broken_connection_leaves_it_unknown(self, alice: User) -> None:
        def cut() -> None:
            with socket.socket(fileno=_fileno()) as wire:
                wire.shutdown(socket.SHUT_RDWR)
                wire.detach()

        error = _insert_and_commit(alice, cut)
        assert (type(error), _state(error)) == (OperationalError, None)

    def test_a_pooler_proves_nothing(self) -> None:
        """It may have sent the COMMIT on."""
        cause = psycopg.errors.AdminShutdown("the pooler is shut down")
        error = OperationalError()
        error.__cause__ = cause
        assert _state(error) == "57P01"
        assert not proves_no_commit(error)


class TestSQLite:
    @pytest.mark.parametrize(
        ("code", "is_away"),
        [
            *[("BUSY", True), ("LOCKED", True), ("FULL", True), ("IOERR_WRITE", True)],
            *[("ERROR", False), ("TOOBIG", False), ("CONSTRAINT_CHECK", False)],
        ],
    )
    def test_says_by_its_code_whether_to_try_again(self, code: str, is_away: bool) -> None:
        assert transactions.is_away(_sqlite_error(code)) is is_away

    @pytest.mark.parametrize(("code", "proves"), [("BUSY", True), ("IOERR", False)])
    def test_that_is_busy_has_not_committed(self, code: str, proves: bool) -> None:
        assert proves_no_commit(_sqlite_error(code)) is proves

    def test_a_missing_table_is_no_outage(self) -> None:
        with pytest.raises(DatabaseError) as raised:  # SQLite's is an OperationalError
            _execute("SELECT 1 FROM no_such_table")
        assert not transactions.is_away(raised.value)


def _insert_and_commit(
    owner: User,
    then: Callable[[], object] = lambda: None,
    *,
    before: Callable[[], object] = lambda: None,
) -> BaseException:
    """Insert a run in a transaction; return the error that answers the COMMIT."""
    try:
        with whole_or_not_at_all():
            before()
            make_run(owner)
            then()
    except DatabaseError as error:
        return error
    raise AssertionError("it was committed")


def _sqlite_error(code: str) -> OperationalError:
    cause = sqlite3.OperationalError()
    cause.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}")
    error = OperationalError()
    error.__cause__ = cause
    return error


def _state(error: BaseException) -> str | None:
    """Return the SQLSTATE, also of an error that another one was made from."""
    cause = error.__cause__
    return _state(cause) if isinstance(cause, DatabaseError) else getattr(cause, "sqlstate", None)


def _execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def _fileno() -> int:
    return int(connection.connection.pgconn.socket)


def _pid() -> int:
    return int(connection.connection.info.backend_pid)


def _as_administrator(sql: str, *parameters: object) -> object:
    arguments = connection.get_connection_params() | {"autocommit": True}
    for name in ("context", "cursor_factory"):
        arguments.pop(name)
    with psycopg.connect(**arguments) as other:
        return other.execute(sql, parameters).fetchone()


def _until_the_server_says_goodbye() -> None:
    goodbye, _, _ = select.select([_fileno()], [], [], 10)
    assert goodbye, "the server reports the session's end"


@contextmanager
def _at_commit(body: str) -> Iterator[None]:
    """Execute PL/pgSQL when a transaction commits that has inserted a run."""
    _execute(
        f"""
        CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN {body} RETURN NULL; END
        $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON runs_runrecord
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
        """
    )
    try:
        yield
    finally:
        connection.close()
        _execute("DROP FUNCTION at_commit CASCADE")


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
