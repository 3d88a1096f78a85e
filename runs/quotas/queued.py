"""The quota of queued runs.

The queue itself is counted, so no number can drift. Far below the quota a start does not count: it
relies on a count of this process that is half a second old. Near it, the starts of an owner go one
at a time, and each counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.db.models import Count

from runs.conf import conf
from runs.db.alias import connection
from runs.db.users import key_as_parameter
from runs.exceptions import QuotaExceeded
from runs.models import RunRecord
from runs.status import Status

__all__ = ["admit_queued", "count_queued", "forget", "is_free"]

FRESH_SECONDS = 0.5
#: All processes together start fewer runs of one owner than this while a count is fresh.
NEAR = 5_000
RETRY_SECONDS = 10  # runs leave the queue as workers claim them
LOCK = 0x71756575  # of PostgreSQL's advisory locks, with the owner
MOST_OWNERS = 10_000  # that are remembered


@dataclass(slots=True)
class _Count:
    queued: int
    counted_at: float
    started: int = 0  # by this process since


_counts: dict[Any, _Count] = {}
_lock = threading.Lock()

# A constant, not a parameter: SQLite uses a partial index only if the statement has its condition.
_QUEUED = """
SELECT COUNT(*) FROM (
    SELECT 1 FROM runs_runrecord WHERE status = 'queued' AND owner_id = %s LIMIT %s
) AS waiting
"""


def admit_queued(owner_id: Any, waiting: int = 0) -> None:
    """Let one more run of an owner into the queue; in the transaction that inserts it.

    ``waiting`` runs were let in before by the same transaction, and are not inserted yet.

    Raises:
        QuotaExceeded: ``RUNS_MAX_QUEUED_PER_OWNER`` runs of the owner are queued.
    """
    if is_free(owner_id):
        return
    allowed = conf().max_queued_per_owner
    if allowed > NEAR:
        queued = _count(owner_id, allowed) + waiting
        _remember(owner_id, queued)
        if queued < allowed - NEAR:
            return
    if connection.vendor == "postgresql":  # SQLite has one writer at a time
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [LOCK, str(owner_id)])
    # After the lock: it sees all that had the lock before.
    queued = _count(owner_id, allowed) + waiting
    if queued >= allowed:
        raise QuotaExceeded(
            "quota_queued",
            f"{queued:,} of at most {allowed:,} runs are queued already.",
            used=queued,
            allowed=allowed,
            retry_seconds=RETRY_SECONDS,
        )


def is_free(owner_id: Any) -> bool:
    """Let one more run of an owner into the queue if that needs no query; tell whether it did."""
    allowed = conf().max_queued_per_owner
    return not allowed or (allowed > NEAR and _is_far_below(owner_id, allowed))


def count_queued(owners: Collection[Any]) -> dict[Any, int]:
    """Return how many runs of each owner are queued, by owner."""
    queued = RunRecord.objects.filter(owner__in=owners, status=Status.QUEUED)
    rows = queued.order_by().values_list("owner").annotate(count=Count("pk"))
    return dict.fromkeys(owners, 0) | dict(rows)


def forget() -> None:
    """Forget all counts, for tests."""
    with _lock:
        _counts.clear()


def _is_far_below(owner_id: Any, allowed: int) -> bool:
    with _lock:
        known = _counts.get(owner_id)
        if known is None or time.monotonic() - known.counted_at > FRESH_SECONDS:
            return False
        known.started += 1
        return known.queued + known.started < allowed - NEAR


def _remember(owner_id: Any, queued: int) -> None:
    with _lock:
        if len(_counts) >= MOST_OWNERS:
            _counts.clear()
        _counts[owner_id] = _Count(queued, time.monotonic())


def _count(owner_id: Any, most: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_QUEUED, [key_as_parameter(owner_id), most])
        row: tuple[int] = cursor.fetchone()
    return row[0]
