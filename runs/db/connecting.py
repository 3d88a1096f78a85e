"""How long a caller waits for a connection to PostgreSQL.

A server that is restarted is back within seconds: a caller waits that long, and sees no error. Once
the server has been away for longer, waiting is not worth it: each request would hold a thread, and
get the same answer. So all callers share one patience. It starts with the first attempt that
failed. When it is used up, a caller waits for as long as one attempt may take.

Settings need this module, so it knows nothing of Django.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

__all__ = ["MOST_WAITING", "PATIENCE_SECONDS", "note_connection", "note_failure"]

PATIENCE_SECONDS = 5.0
HURRY_SECONDS = 0.5
MOST_WAITING = 20

_away_since: float | None = None


def note_failure(pool: ConnectionPool) -> None:
    """Shorten the wait. The pool calls this when it could not connect, nor a second later."""
    global _away_since
    now = time.monotonic()
    if _away_since is None:
        _away_since = now
    pool.timeout = max(HURRY_SECONDS, PATIENCE_SECONDS - (now - _away_since))
    if pool.timeout == HURRY_SECONDS:
        # Until it has a connection, psycopg_pool (3.3.3) keeps each caller that has given up in its
        # queue, with the error and so with the whole request: 25 kB. A full queue refuses at once,
        # and keeps nothing. But a refused caller doesn't make the pool connect: check() does.
        pool.max_waiting = MOST_WAITING
        pool.check()


def note_connection(connection: Any, **_: object) -> None:
    """Wait patiently again. Django's signal calls this for each connection that it gets."""
    global _away_since
    pool = getattr(connection, "pool", None)  # SQLite has none
    if pool is not None and _away_since is not None:
        _away_since = None
        pool.timeout = PATIENCE_SECONDS
        pool.max_waiting = 0  # no bound
