"""How long whoever asks PostgreSQL something waits for a connection.

A server that is restarted is back within seconds: who comes meanwhile waits, and never hears of it.
One that has been away for that long already is not worth the wait: the answer is the same, each
request holds a thread until it comes, and people look at nothing. So all who wait share one
patience. It begins with the first try that failed; when it is used up, who comes waits for as long
as one try may take.

Settings need it, so this module knows nothing of Django.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

__all__ = ["PATIENCE_SECONDS", "note_connection", "note_failure"]

PATIENCE_SECONDS = 5.0
HURRY_SECONDS = 0.5

_away_since: float | None = None
_pool: ConnectionPool | None = None


def note_failure(pool: ConnectionPool) -> None:
    """Be told by the pool that it could not connect, nor a second later."""
    global _away_since, _pool
    now = time.monotonic()
    if _away_since is None:
        _away_since, _pool = now, pool
    pool.timeout = max(HURRY_SECONDS, PATIENCE_SECONDS - (now - _away_since))
    _forget_who_left(pool)


def note_connection(**_: object) -> None:
    """Be told by Django's signal that somebody has a connection, and that it works."""
    global _away_since, _pool
    if _pool is not None:
        _pool.timeout = PATIENCE_SECONDS
        _away_since = _pool = None


def _forget_who_left(pool: ConnectionPool) -> None:
    """Take those out of the pool's queue who wait no more.

    psycopg_pool (3.3.3) leaves them there until it has a connection again, each with the error that
    it left by, hence with the whole request, its body included: some 25 kB for each request of an
    outage. This can go when ``_getconn_unchecked`` takes out whom it sends away.
    """
    with pool._lock:
        waiting = [one for one in pool._waiting if one.error is None]
        pool._waiting.clear()
        pool._waiting.extend(waiting)
