"""Wait for the end of a run, without a database connection, and not while the process drains."""

from __future__ import annotations

import threading
import time
import uuid

from runs.db.lending import release_connection
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.status import TERMINAL

__all__ = ["let_go", "wait_until_over"]

POLL_SECONDS = 0.3  # other processes send no message when their runs end

_leaving = threading.Event()


def wait_until_over(run: uuid.UUID, seconds: float) -> bool:
    """Block until ``run`` is over, for ``seconds`` at most; return whether it is.

    Returns early if this process drains; the client may ask again. Holds no database connection
    while it waits: twenty waiting clients would use up a pool of twenty.
    """
    deadline = time.monotonic() + seconds
    while True:
        # Watch before the poll, or an end between the two is missed. Watch again each time: a
        # requeue sets the event, too.
        with local_runs.watching(run) as ended:
            if RunRecord.objects.filter(pk=run, status__in=TERMINAL).exists():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or _leaving.is_set():
                return False
            release_connection()
            ended.wait(min(left, POLL_SECONDS))


def let_go() -> None:
    """End all waits: this process drains."""
    _leaving.set()
