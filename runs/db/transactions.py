"""Repeat transactions; tell a database that is away from one that refuses a statement."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from django.db import (
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)

__all__ = [
    "CONNECTION_ERRORS",
    "NothingWritten",
    "in_transaction",
    "is_away",
    "patiently",
    "whole_or_not_at_all",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


# Classes of SQLSTATE (PostgreSQL, appendix A): connections; conflicts with other transactions;
# resources (a full disk, too many connections); locks; an administrator, a shutdown; the system.
_PASSING = frozenset({"08", "40", "53", "55", "57", "58"})
# Two states of a class that otherwise means bugs: a standby before its promotion, and a transaction
# that the server ended because this process was idle in it (a timeout of ``settings``).
_PASSING_STATES = frozenset({"25006", "25P03"})
# Errors without an SQLSTATE come from psycopg itself. It raises InternalError when a pooler adds an
# error of its own after the server's: "received 2 results from command 'BEGIN'".
CONNECTION_ERRORS = (OperationalError, InterfaceError, InternalError)
_IN_CONFLICT = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_MOST_TRIES = 5
PATIENCE_SECONDS = 60.0  # for a database that is away
RETRY_SECONDS = 0.2


def is_away(error: BaseException) -> bool:
    """Tell whether the database was away, so that the same statement may work later.

    Otherwise the database refused the statement, and would refuse it again. The class
    OperationalError alone does not tell: PostgreSQL also raises it for a value beyond its limits.
    """
    state = _sqlstate(error)
    if state:
        return state[:2] in _PASSING or state in _PASSING_STATES
    return isinstance(error, CONNECTION_ERRORS)


def in_transaction(work: Callable[[], T]) -> T:
    """Call ``work`` in a transaction; repeat it after a conflict with another transaction.

    All transactions lock callers before called runs, but none can lock the rows of several trees at
    one instant. Two that stop parts of the same trees may wait for each other; PostgreSQL then
    aborts one. A rollback must undo every effect of ``work``.
    """
    tries = 1
    while True:
        try:
            with transaction.atomic():
                return work()
        except OperationalError as error:
            is_conflict = _sqlstate(error) in _IN_CONFLICT
            if not is_conflict or tries == _MOST_TRIES or connection.in_atomic_block:
                raise
            logger.info("a conflict with another transaction (%s), trying again", _sqlstate(error))
        time.sleep(random.uniform(0, 0.01) * tries)  # noqa: S311 - apart from each other
        tries += 1


class NothingWritten(OperationalError):
    """The database went away before the commit: the write may be tried again."""


@contextlib.contextmanager
def whole_or_not_at_all() -> Iterator[None]:
    """Open a transaction for a write that must not be repeated.

    Raises:
        NothingWritten: the database is away, and nothing that the body wrote was committed. After
            any other connection error, which came with the commit, all of it may be committed.
    """
    is_whole = False
    try:
        with transaction.atomic():
            yield
            is_whole = True
    except Exception as error:
        if is_whole or not is_away(error):
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
            if not may_repeat(error):
                raise
            before_retry()  # first: one try may take all of the time
            if time.monotonic() > end:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's code of an error; empty without one, and on SQLite."""
    return getattr(error.__cause__, "sqlstate", None) or ""
