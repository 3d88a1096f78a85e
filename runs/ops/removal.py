"""Remove chosen runs, entries of data stores, and users with all that they own, for the admin.

Django's collector would load each row, for signals that have no receivers: 26 s for 30,000 events.
Here a few statements remove them. How much may go at once is bounded, because a request waits.
``runs.ops.retention`` removes any amount, a little at a time.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Count, QuerySet, Sum

from runs.db.alias import alias, atomic, on_commit
from runs.models import DataStoreEntry, RunEvent, RunInput, RunRecord
from runs.quotas import ledger

__all__ = ["MOST_EVENTS", "Extent", "StillActive", "delete_entries", "delete_owners", "delete_runs",
           "extent_of", "with_runs_below"]  # fmt: skip

#: Events that may go in one request: about three seconds of PostgreSQL's time.
MOST_EVENTS = 300_000
_CHUNK = 500  # runs in one statement


class StillActive(Exception):
    """A run that is to be deleted is not over."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much some runs are."""

    runs: int
    events: int

    @property
    def is_too_much(self) -> bool:
        return self.events > MOST_EVENTS


def with_runs_below(ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Return the runs and all runs below them; one query for each level and 500 runs."""
    found = set(ids)
    newest = found
    while newest:
        below: set[uuid.UUID] = set()
        for chunk in _chunks(newest):
            below |= set(RunRecord.objects.filter(parent__in=chunk).values_list("pk", flat=True))
        newest = below - found
        found |= newest
    return found


def extent_of(runs: QuerySet[RunRecord]) -> Extent:
    """Count runs and the events that are left of them; reads no event."""
    sums = runs.order_by().aggregate(count=Count("pk"))
    left = runs.order_by().filter(log_removed_at=None).aggregate(total=Sum("last_seq"))
    return Extent(sums["count"], left["total"] or 0)


def delete_runs(ids: Collection[uuid.UUID]) -> None:
    """Delete runs and all runs below them, with inputs and logs, in one transaction.

    Raises:
        StillActive: one of them is not over; nothing was deleted.
    """
    with atomic():
        for chunk in _chunks(with_runs_below(ids)):
            _delete(RunRecord.objects.filter(pk__in=chunk))


def delete_owners(owners: Collection[Any]) -> None:
    """Delete users and all that they own, in one transaction.

    Raises:
        StillActive: a run of theirs is not over; nothing was deleted.
    """
    users = get_user_model()._base_manager.filter(pk__in=owners)
    with atomic():
        # A start of one of them waits for this lock, and then fails: its owner is gone.
        list(users.select_for_update().order_by("pk").values_list("pk"))
        runs = RunRecord.objects.filter(owner__in=owners)
        if runs.active().exists():
            raise StillActive
        while ids := list(runs.order_by("created_at").values_list("pk", flat=True)[:_CHUNK]):
            _delete(RunRecord.objects.filter(pk__in=ids))
        DataStoreEntry.objects.filter(owner__in=owners)._raw_delete(alias())
        users.delete()


def delete_entries(entries: QuerySet[DataStoreEntry]) -> None:
    """Delete entries of data stores."""
    with atomic():
        ids = list(entries.order_by("pk").values_list("pk", flat=True))
        rows = DataStoreEntry.objects.filter(pk__in=ids).order_by()
        counted = rows.values_list("owner").annotate(total=Sum("size_bytes"), count=Count("pk"))
        removed = list(counted)
        rows._raw_delete(alias())

        def after_commit() -> None:
            for owner, total, count in removed:
                ledger.add(owner, -int(total or 0), -count)

        on_commit(after_commit, robust=True)


def _delete(runs: QuerySet[RunRecord]) -> None:
    """Delete at most 500 runs; the database checks the keys between runs at the commit."""
    locked = runs.select_for_update().order_by("depth", "pk")
    removed: Counter[Any] = Counter()
    ids = []
    for run in locked.only("owner", "status", "value_bytes", "log_bytes"):
        if not run.is_terminal:
            raise StillActive
        ids.append(run.pk)
        removed[run.owner_id] += run.value_bytes + run.log_bytes
    RunEvent.objects.filter(run__in=ids)._raw_delete(alias())
    RunInput.objects.filter(run__in=ids)._raw_delete(alias())
    RunRecord.objects.filter(pk__in=ids)._raw_delete(alias())

    def after_commit() -> None:
        for owner, count in removed.items():
            ledger.add(owner, -count)

    on_commit(after_commit, robust=True)


def _chunks(ids: Collection[uuid.UUID]) -> Iterator[list[uuid.UUID]]:
    some = list(ids)
    return (some[start : start + _CHUNK] for start in range(0, len(some), _CHUNK))
