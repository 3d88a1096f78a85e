"""Wait for the end of a run in a thread, in any process. It holds no database connection meanwhile.

An end in this process is heard of at once. Other processes send ends to feeds alone, so this polls,
less and less often. On an event loop the feed waits without a thread (``web.feed``).
"""

from __future__ import annotations

import threading
import time
import uuid

from runs.db.lending import release_connection
from runs.models import RunRecord

from . import local_runs

__all__ = ["FIRST_PAUSE_SECONDS", "is_leaving", "let_go", "next_pause", "wait_until_over"]

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
GROWTH = 1.5

_leaving = threading.Event()


def wait_until_over(run: uuid.UUID, seconds: float | None = None) -> bool:
    """Block until ``run`` is over or deleted, for ``seconds`` at most; return whether it is.

    Returns early if this process drains; the caller may ask again. Not for use in a transaction,
    which keeps its connection, and on SQLite all other writers out.
    """
    end = None if seconds is None else time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        # Watch before the poll, or an end between the two is missed. Watch again each time: a
        # requeue sets the event, too.
        with local_runs.watching(run) as ended:
            if not RunRecord.objects.active().filter(pk=run).exists():
                return True
            left = pause if end is None else end - time.monotonic()
            if left <= 0 or is_leaving():
                return False
            release_connection()
            ended.wait(min(left, pause))
        pause = next_pause(pause)


def next_pause(seconds: float) -> float:
    """Return how long to wait for the next poll after a pause of ``seconds``."""
    return min(seconds * GROWTH, LONGEST_PAUSE_SECONDS)


def is_leaving() -> bool:
    """Tell whether this process drains."""
    return _leaving.is_set()


def let_go() -> None:
    """End all waits: this process drains."""
    _leaving.set()
