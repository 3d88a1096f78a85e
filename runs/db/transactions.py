"""Repeat transactions; tell a database that is away from one that refuses a statement."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError

from agents.values.jsonable import error_text
from runs.db.alias import atomic, connection

from .connecting import RETRY_SECONDS
from .writability import note_failure

__all__ = [
    "CONNECTION_ERRORS",
    "NothingWritten",
    "breaks_connection",
    "in_transaction",
    "is_away",
    "is_locked",
    "patiently",
    "proves_no_commit",
    "refusal_text",
    "whole_or_not_at_all",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


# Classes of SQLSTATE (PostgreSQL, appendix A): connections; conflicts with other transactions;
# resources (a full disk, too many connections); locks; an administrator, a shutdown; the system.
_PASSING = frozenset({"08", "40", "53", "55", "57", "58"})
# States of a class that otherwise means bugs: a standby before its promotion, and a transaction
# that the server ended because this process was idle in it (a timeout of ``settings``), or because
# it took too long.
_PASSING_STATES = frozenset({"25006", "25P03", "25P04"})
# SQLite's primary result codes: BUSY, LOCKED, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
# Python raises OperationalError for most of the others, too, such as a table that is missing.
_PASSING_IN_SQLITE = frozenset({5, 6, 8, 9, 10, 13, 14, 15})
# Errors without an SQLSTATE come from psycopg itself. It raises InternalError when a pooler adds an
# error of its own after the server's: "received 2 results from command 'BEGIN'".
CONNECTION_ERRORS = (OperationalError, InterfaceError, InternalError)
_IN_CONFLICT = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_MOST_TRIES = 5
PATIENCE_SECONDS = 60.0  # for a database that is away


def is_away(error: BaseException) -> bool:
    """Tell whether the database was away, so that the same statement may work later.

    Otherwise the database refused the statement, and would refuse it again. The class
    OperationalError alone does not tell: PostgreSQL also raises it for a value beyond its limits.
    """
    if state := _sqlstate(error):
        return state[:2] in _PASSING or state in _PASSING_STATES
    if (code := getattr(error.__cause__, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _PASSING_IN_SQLITE  # the upper bits say more of the same
    return isinstance(error, CONNECTION_ERRORS)


def is_locked(error: BaseException) -> bool:
    """Tell whether a statement that does not wait for locks has met one."""
    return _sqlstate(error) == "55P03"


def breaks_connection(error: BaseException) -> bool:
    """Tell whether an error came from a broken connection, and not from an answer."""
    state = _sqlstate(error)
    is_from_sqlite = hasattr(error.__cause__, "sqlite_errorcode")
    is_broken = state.startswith("08") if state else not is_from_sqlite
    return is_broken and isinstance(error, CONNECTION_ERRORS)


def refusal_text(error: BaseException) -> str:
    """Return why the database refused a statement, without the row that PostgreSQL quotes.

    The first line says why; the row is in the lines after it.
    """
    return error_text(error).partition("\n")[0]


def in_transaction(work: Callable[[], T]) -> T:
    """Call ``work`` in a transaction; repeat it after a conflict with another transaction.

    All transactions lock callers before called runs, but none can lock the rows of several trees at
    one instant. Two that stop parts of the same trees may wait for each other; PostgreSQL then
    aborts one. A rollback must undo every effect of ``work``.
    """
    tries = 1
    while True:
        try:
            with atomic():
                return work()
        except OperationalError as error:
            is_conflict = _sqlstate(error) in _IN_CONFLICT
            if not is_conflict or tries == _MOST_TRIES or connection.in_atomic_block:
                raise
            logger.info("a conflict with another transaction (%s), trying again", _sqlstate(error))
        time.sleep(random.uniform(0, 0.01) * tries)  # noqa: S311 - apart from each other
        tries += 1


class NothingWritten(OperationalError):
    """The database was away before the commit, or refused it: the write may be tried again."""


# What an error proves that comes as the answer to COMMIT.
#
# PostgreSQL commits in this order: it executes the deferred constraints and triggers, it checks for
# serialization failures, it holds interrupts back, it writes the commit record, it cleans up, and
# it answers. So an error of one of the first steps, or an interrupt, proves that nothing was
# committed. (src/backend/access/transam/xact.c, CommitTransaction; tcop/postgres.c,
# ProcessInterrupts.) An interrupt after the commit record comes after the answer.
#
#   23xxx  a deferred constraint          nothing was committed
#   40001  serialization failure          nothing was committed
#   40P01  deadlock, in a trigger         nothing was committed
#   40003  completion unknown             unknown, as it says
#   25P02  the transaction had failed     nothing. PostgreSQL itself answers such a COMMIT with
#                                         ROLLBACK and no error; only a pooler might say this
#   25P03  idle in transaction too long   nothing: the session ended before it read the COMMIT
#   25P04  the transaction took too long  nothing: an interrupt (from PostgreSQL 17 on)
#   55P03  a lock, in a trigger           nothing was committed
#   57014  cancelled                      nothing: an interrupt. While a commit waits for a standby
#                                         this is a warning, and the commit succeeds
#   57P01  an administrator's command     nothing: an interrupt. In an immediate shutdown this is a
#                                         warning, and the connection breaks: no state at all
#   57P02  another session crashed        unknown: it may come at any instant
#   57P03  the server starts or stops     unknown; it answers a connection, never a COMMIT
#   57P05  idle outside a transaction     unknown: then COMMIT had nothing to commit
#   53xxx  resources                      unknown: cleaning up needs memory and files, too
#   58xxx  the operating system           unknown: the commit record may be written, or not
#   08xxx  the connection, 08007 too      unknown
#   XX000  an internal error              unknown
#   none   the connection broke           unknown
#
# Only PostgreSQL can prove it. A pooler may use the same states for the session that it has with
# the client, while it has sent the COMMIT to the server. Unlike a pooler's, each error of
# PostgreSQL names the function that reported it.
_NOT_COMMITTED = frozenset({"40001", "40P01", "25P02", "25P03", "25P04", "55P03", "57014", "57P01"})
_NOT_COMMITTED_CLASSES = frozenset({"23"})
# SQLite refuses to commit while it is BUSY or LOCKED; Django then rolls back.
_NOT_COMMITTED_IN_SQLITE = frozenset({5, 6})


def proves_no_commit(error: BaseException) -> bool:
    """Tell whether an error that answers a COMMIT proves that nothing was committed."""
    cause = error.__cause__
    if (code := getattr(cause, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _NOT_COMMITTED_IN_SQLITE
    state = _sqlstate(error)
    if state not in _NOT_COMMITTED and state[:2] not in _NOT_COMMITTED_CLASSES:
        return False
    return bool(getattr(getattr(cause, "diag", None), "source_function", None))


@contextlib.contextmanager
def whole_or_not_at_all() -> Iterator[None]:
    """Open a transaction for a write that must not be repeated.

    Raises:
        NothingWritten: the database is away, or ended the transaction, and nothing that the body
            wrote was committed. After any other connection error, which came with the commit, all
            of it may be committed.
    """
    is_whole = False
    try:
        with atomic():
            yield
            is_whole = True
    except Exception as error:
        if not is_away(error) or (is_whole and not proves_no_commit(error)):
            raise
        raise NothingWritten(str(error)) from error


async def patiently(
    ask: Callable[[], Awaitable[T]],
    *,
    before_retry: Callable[[], object],
    may_repeat: Callable[[BaseException], bool] = is_away,
) -> T:
    """Await ``ask()``; repeat it for a minute while the database is away.

    ``ask`` may have succeeded with only its answer lost. So it must be safe to repeat, or
    ``may_repeat`` must decide by the error. ``before_retry`` is called before each repetition; it
    raises to give up.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await ask()
        except Exception as error:
            note_failure(error)
            if not may_repeat(error):
                raise
            before_retry()  # first: one try may take all of the time
            if time.monotonic() > end:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's code of an error; empty without one, and on SQLite."""
    return getattr(error.__cause__, "sqlstate", None) or ""
