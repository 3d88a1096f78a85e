"""Wait for a run to be over, without wearing out the database."""

from __future__ import annotations

import time
import uuid

from django.db import connection

from .. import active
from ..models import RunRecord
from ..status import TERMINAL

__all__ = ["release_connection", "wait_until_over"]

LOOK_SECONDS = 0.3  # for runs of other processes, of which nobody tells us


def wait_until_over(run: uuid.UUID, seconds: float) -> bool:
    """Block until ``run`` is over, for ``seconds`` at most; return whether it is.

    Holds no database connection meanwhile: a pool of twenty would be gone with twenty waiting
    clients.
    """
    deadline = time.monotonic() + seconds
    while True:
        # Watched before the look, so that an end in between is not missed; and anew each time,
        # because a run that is handed back sets the event as well.
        with active.watching(run) as ended:
            if RunRecord.objects.filter(pk=run, status__in=TERMINAL).exists():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            release_connection()
            ended.wait(min(left, LOOK_SECONDS))


def release_connection() -> None:
    """Give back the database connection of a request that will be long."""
    if not connection.in_atomic_block:  # as in tests
        connection.close()
