"""The thread that keeps the table of usage: it adds what was noted, and measures at times.

Each process that writes runs has one. A thread of its own, because to measure a large table takes
longer than a worker may be late with the renewal of its lease.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from datetime import timedelta

from django.db import reset_queries
from django.db.models import Max
from django.utils import timezone

from runs.db.alias import atomic, connection
from runs.db.users import key_as_read
from runs.db.writability import note_failure
from runs.models import OwnerUsage

from . import ledger

__all__ = ["UsageThread", "measure"]

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
MEASURE_SECONDS = 3600.0
MOST_SHARE = 0.01  # of the time goes into measuring, at most
LOCK = 0x75736167  # of PostgreSQL's advisory locks: one process measures at a time


class UsageThread:
    """Keeps the table of usage, for one process."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._next_measuring = time.monotonic() + random.uniform(1, 60)  # noqa: S311
        self._thread = threading.Thread(target=self._main, name="runs-usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Add what is left and end the thread. Waits at most 5 s for the database."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _main(self) -> None:
        is_failing = False
        while True:
            is_last = self._closing.wait(FLUSH_SECONDS)
            try:
                ledger.flush()
                if not is_last:
                    self._measure_if_due()
                is_failing = False
            except Exception as error:  # of any kind: the next try may succeed
                note_failure(error)
                if not is_failing:
                    logger.warning("usage can't be written (%s), trying again", error)
                is_failing = True
            # Not held while it waits: a process has few connections.
            reset_queries()
            connection.close()
            if is_last:
                return

    def _measure_if_due(self) -> None:
        started = time.monotonic()
        if started < self._next_measuring:
            return
        self._next_measuring = started + MEASURE_SECONDS  # also if it fails
        last = OwnerUsage.objects.aggregate(last=Max("measured_at"))["last"]
        if last is None or timezone.now() - last > timedelta(seconds=MEASURE_SECONDS):
            measure()
            took = time.monotonic() - started
            self._next_measuring += took / MOST_SHARE


_MEASURE = """
SELECT owner_id, SUM(bytes), SUM(keys) FROM (
    SELECT owner_id, SUM(value_bytes + log_bytes) AS bytes, 0 AS keys
    FROM runs_runrecord GROUP BY owner_id
    UNION ALL
    SELECT owner_id, SUM(size_bytes), COUNT(*) FROM runs_datastoreentry GROUP BY owner_id
    UNION ALL
    SELECT owner_id, 0, 0 FROM runs_ownerusage
) AS parts GROUP BY owner_id
"""


def measure() -> None:
    """Add up the records of all owners, and correct the table.

    A large table takes a while. The result may be wrong by what was written within a second.
    Does nothing while another process measures.
    """
    ledger.flush()
    with atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
            if not cursor.fetchone()[0]:
                return
        before = {row.pk: row for row in OwnerUsage.objects.all()}
        cursor.execute(_MEASURE)
        for value, stored_bytes, keys_count in cursor.fetchall():
            owner = key_as_read(value)
            known = before.get(owner) or OwnerUsage(owner_id=owner)
            # The difference, not the sum: other processes add to the row meanwhile.
            more_bytes = int(stored_bytes) - known.stored_bytes
            more_keys = int(keys_count) - known.keys_count
            if more_bytes or more_keys or owner not in before:
                ledger.write(owner, more_bytes, more_keys)
        OwnerUsage.objects.update(measured_at=timezone.now())
