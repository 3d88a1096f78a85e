"""How the database is used: in threads of a worker's own, and again when it could not be asked.

Django's own way from async to sync is one thread per process, shared with every request; a busy
site would hold up each data store call. These threads are the worker's own, and keep their
connections open.

In debug Django remembers each connection's last 9,000 queries with their parameters, documents
among them, until a request begins. Nothing that a worker's threads do is part of a request, so each
of them forgets by itself: ``reset_queries()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import (
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    reset_queries,
    transaction,
)

__all__ = [
    "DatabaseThreads",
    "NothingWritten",
    "in_transaction",
    "is_away",
    "patiently",
    "whole_or_not_at_all",
]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
THREAD_COUNT = 4


# Classes of SQLSTATE (PostgreSQL, appendix A): connections; conflicts with other transactions;
# resources (a full disk, too many connections); locks; an administrator, a shutdown; the system.
_PASSING = frozenset({"08", "40", "53", "55", "57", "58"})
# And of a class that is of bugs otherwise: a standby, until it is promoted; a transaction that the
# server gave up because we stood still in the middle of it (``settings``).
_PASSING_STATES = frozenset({"25006", "25P03"})
# Without a word of the server's: psycopg's own. The last one is what it makes of a pooler that puts
# its own error behind the server's: "received 2 results from command 'BEGIN'".
_OF_CONNECTIONS = (OperationalError, InterfaceError, InternalError)
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
    return isinstance(error, _OF_CONNECTIONS)


def in_transaction(work: Callable[[], T]) -> T:
    """Call ``work`` in a transaction; again, if others' transactions were in its way.

    Everybody locks callers before called, but nobody can lock the rows of several trees at one
    instant: two who stop parts of the same trees may wait for each other, and PostgreSQL lets one
    of them go. ``work`` must leave nothing behind but what a rollback takes back.
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
        time.sleep(random.uniform(0, 0.01) * tries)  # noqa: S311 - not to meet again
        tries += 1


class NothingWritten(OperationalError):
    """The database went away before the commit: what was to be written may be tried again."""


@contextlib.contextmanager
def whole_or_not_at_all() -> Iterator[None]:
    """Open a transaction for what must not be done twice.

    Raises:
        NothingWritten: the database is away, and nothing is there of what the body wrote. Any other
            error by which it is away came with the commit: then nobody knows.
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
    """Await ``ask()``; again and again while the database is away, for a minute.

    For what may be repeated also where only the answer was lost, unless ``may_repeat`` tells.
    ``go_on`` is called before each repetition, and raises what is to come out instead.
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


class DatabaseThreads:
    """A few threads with a database connection each."""

    def __init__(self, count: int = THREAD_COUNT) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="runs-database")

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``function`` in one of the threads; from any thread."""
        return self._pool.submit(_call, functools.partial(function, *args, **kwargs))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in one of the threads and await its result.

        Cancelling the await does not interrupt a call that has begun.
        """
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Close the connections and end the threads, after what they have to do."""
        everybody = threading.Barrier(self._count)

        def close_mine() -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                everybody.wait(timeout=5)  # so that no thread takes two of these
            connection.close()

        for _ in range(self._count):
            self._pool.submit(close_mine)
        self._pool.shutdown(wait=True)


def _call(function: Callable[[], T]) -> T:
    try:
        return function()
    except _OF_CONNECTIONS:  # whatever is_away() says: it costs little
        connection.close()  # it may be broken; the next call opens another
        raise
    finally:
        reset_queries()
