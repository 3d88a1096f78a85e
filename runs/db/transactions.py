"""Transactions that are repeated, and what tells a database that is away from one that refuses."""

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
# And of a class that is of bugs otherwise: a standby, until it is promoted; a transaction that the
# server gave up because we stood still in the middle of it (``settings``).
_PASSING_STATES = frozenset({"25006", "25P03"})
# Without a word of the server's: psycopg's own. The last one is what it makes of a pooler that puts
# its own error behind the server's: "received 2 results from command 'BEGIN'".
CONNECTION_ERRORS = (OperationalError, InterfaceError, InternalError)
_IN_CONFLICT = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_MOST_TRIES = 5
PATIENCE_SECONDS = 60.0  # for a database that is away
RETRY_SECONDS = 0.2


def is_away(error: BaseException) -> bool:
    """Tell whether the database could not be asked, so that the very same may work later.

    Otherwise it was asked and refuses: more of the same would be refused again. OperationalError
    alone doesn't tell: a value beyond one of PostgreSQL's limits is one, too.
    """
    state = _sqlstate(error)
    if state:
        return state[:2] in _PASSING or state in _PASSING_STATES
    return isinstance(error, CONNECTION_ERRORS)


def in_transaction(work: Callable[[], T]) -> T:
    """Call ``work`` in a transaction; repeat it after a conflict with another transaction.

    All transactions lock callers before called, but none can lock the rows of several trees at one
    instant: two that stop parts of the same trees may wait for each other, and PostgreSQL aborts
    one of them. ``work`` must have no effects but those that a rollback takes back.
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
            logger.info("a conflict with another transaction (%s), again", _sqlstate(error))
        time.sleep(random.uniform(0, 0.01) * tries)  # noqa: S311 - so that they don't conflict again
        tries += 1


class NothingWritten(OperationalError):
    """The database went away before the commit: the write may be tried again."""


@contextlib.contextmanager
def whole_or_not_at_all() -> Iterator[None]:
    """Open a transaction for a write that must not be repeated.

    Raises:
        NothingWritten: the database is away, and has nothing of what the body wrote. After any
            other error of a database that is away, which came with the commit, it may have all.
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
    go_on: Callable[[], object],
    may_repeat: Callable[[BaseException], bool] = is_away,
) -> T:
    """Await ``ask()``; repeat it for a minute while the database is away.

    ``ask`` may have succeeded with only its answer lost: it must bear repetition, or ``may_repeat``
    must tell. ``go_on`` is called before each repetition; it raises to give up.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await ask()
        except Exception as error:
            if not may_repeat(error):
                raise
            go_on()  # before time is up, too: one try may have taken all of it
            if time.monotonic() > end:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's word for what went wrong; empty if none came, or on SQLite."""
    return getattr(error.__cause__, "sqlstate", None) or ""
