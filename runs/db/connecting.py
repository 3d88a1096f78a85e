"""How long a caller waits for a connection to PostgreSQL, and how soon it gets one.

A server that is restarted is back within seconds: a caller waits that long, and sees no error. Once
the server has been away for longer, waiting is not worth it: each request would hold a thread, and
get the same answer. So all callers share one patience. It starts with the first attempt that
failed. When it is used up, a caller waits for as long as one attempt may take.

While the server is away the pool tries all the time, so all waiting callers are served as soon as
it is back. By itself psycopg_pool (3.3.3) gives up after ``reconnect_timeout``, and tries again for
a caller that comes later: those that wait already would sit out their time.

Settings need this module, so it knows nothing of Django.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

__all__ = [
    "MOST_WAITING",
    "PATIENCE_SECONDS",
    "RECONNECT_SECONDS",
    "RETRY_SECONDS",
    "note_connection",
    "note_failure",
    "pooled_connection_class",
]

PATIENCE_SECONDS = 5.0
HURRY_SECONDS = 0.5
MOST_WAITING = 20
#: The pool's pause between two attempts. Its own would be a second, and double each time.
RECONNECT_SECONDS = 0.2
#: How long a thread that serves no request waits before it asks again, after an error.
RETRY_SECONDS = 0.2

_away_since: float | None = None


def note_failure(pool: ConnectionPool) -> None:
    """Shorten the wait, and try again. The pool calls this when it could not connect twice."""
    global _away_since
    now = time.monotonic()
    if _away_since is None:
        _away_since = now
    pool.timeout = max(HURRY_SECONDS, PATIENCE_SECONDS - (now - _away_since))
    if pool.timeout == HURRY_SECONDS:
        # Until it has a connection, psycopg_pool (3.3.3) keeps each caller that has given up in its
        # queue, with the error and so with the whole request: 25 kB. A full queue refuses at once,
        # and keeps nothing.
        pool.max_waiting = MOST_WAITING
    pool.check()  # makes the pool connect, though no caller asks


def note_connection(connection: Any, **_: object) -> None:
    """Wait patiently again. Django's signal calls this for each connection that it gets."""
    global _away_since
    pool = getattr(connection, "pool", None)  # SQLite has none
    if pool is not None and _away_since is not None:
        _away_since = None
        pool.timeout = PATIENCE_SECONDS
        pool.max_waiting = 0  # no bound


_purging = threading.Lock()


def pooled_connection_class() -> type[Any]:
    """Return the class of the pool's connections: when one is dead, all are tested at once.

    After a restart of the server all idle connections are dead. The pool tests a connection before
    it hands it out, but after the second dead one it pauses for a second, then for two.
    """
    import psycopg

    class PooledConnection(psycopg.Connection[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            try:
                return super().execute(query, *arguments, **options)
            except psycopg.OperationalError:
                if query == "":  # the pool's test; all other statements have text
                    _purge()
                raise

    PooledConnection.__qualname__ = "PooledConnection"  # for the pool's log
    return PooledConnection


def _purge() -> None:
    """Have the pool test its idle connections, and replace the dead ones. In one thread only."""
    from .alias import connection

    pool = getattr(connection, "pool", None)
    if pool is not None and _purging.acquire(blocking=False):
        try:
            pool.check()  # calls execute() of each, which returns here and does nothing
        finally:
            _purging.release()
