"""Remove old runs, or only their logs: whole finished trees, a little at a time.

A sweep reads the runs from the oldest on, in pages by index, so it costs the same in a table of a
million. Each transaction is short, and skips rows that are locked: a later sweep removes them. Any
number of sweeps may run at once. A sweep that is killed leaves nothing half done: a log goes in one
transaction with its mark, a tree goes as a whole.

The data store is no log and is not touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connection, transaction
from django.db.models import Q
from django.utils import timezone

from runs.models import RunEvent, RunInput, RunRecord
from runs.status import TERMINAL

__all__ = ["BATCH_COUNT", "Policy", "Position", "Removed", "Sweep"]

BATCH_COUNT = 100  # trees in one step
EVENTS_AT_ONCE = 5_000  # in one transaction; a run's own log goes as a whole
PAGE_COUNT = 500  # runs that one query reads
LOCK = 0x68616C74  # of PostgreSQL's advisory locks: one process at a time removes periodically


@dataclass(frozen=True, slots=True)
class Policy:
    """What to remove: trees whose root ended before an instant.

    Attributes:
        what: the runs, or only their logs.
        statuses: of the roots.
    """

    what: Literal["runs", "logs"]
    before: datetime
    statuses: Collection[str] = TERMINAL
    agent: str = ""
    owner_id: Any = None


@dataclass(slots=True)
class Removed:
    """How much a sweep has removed, or would remove if it is dry."""

    trees: int = 0
    runs: int = 0
    events: int = 0


class _Row(NamedTuple):
    id: uuid.UUID
    created_at: datetime
    parent_id: uuid.UUID | None
    status: str
    finished_at: datetime | None
    agent: str
    owner_id: Any
    log_removed_at: datetime | None


class _Member(NamedTuple):
    id: uuid.UUID
    root_id: uuid.UUID
    status: str
    last_seq: int
    log_removed_at: datetime | None


Position = tuple[datetime, uuid.UUID]


@dataclass(slots=True)
class Sweep:
    """One pass through the runs; call ``step`` until it returns False.

    Attributes:
        is_alone: skip a step while another process does one.
        position: the last run that was read.
        resume: the ``position`` for a later sweep of the same policy: all runs up to there are
            removed, or will never match.
    """

    policy: Policy
    batch_count: int = BATCH_COUNT
    is_dry: bool = False
    is_alone: bool = False
    position: Position | None = None
    resume: Position | None = None
    removed: Removed = field(default_factory=Removed)
    _roots: list[_Row] = field(default_factory=list)
    _is_resume_fixed: bool = False

    def step(self) -> bool:
        """Read some runs, or remove some; return False when there are no more. Takes a moment.

        Raises:
            django.db.Error: the database refused; the step can be repeated.
        """
        if not self._roots:
            return self._read_page()
        roots = {row.id: row for row in self._roots[: self.batch_count]}
        if self.is_dry:
            self._count(roots)
        else:
            gone = self._remove(roots.keys())
            for row in roots.values():
                if row.id not in gone:
                    self._leave_for_later(row)
        del self._roots[: len(roots)]
        return True

    def _read_page(self) -> bool:
        rows = _page(self.position, self.policy.before)
        for row in rows:
            if row.parent_id is None:
                self._consider(row)
        if not rows:
            return False
        self.position = (rows[-1].created_at, rows[-1].id)
        if not self._is_resume_fixed:
            self.resume = self.position
        return True

    def _consider(self, row: _Row) -> None:
        policy = self.policy
        if row.finished_at is None or row.finished_at >= policy.before:
            self._leave_for_later(row)
        elif policy.what == "logs" and row.log_removed_at is not None:
            pass
        elif (
            row.status in policy.statuses
            and (not policy.agent or row.agent == policy.agent)
            and (policy.owner_id is None or row.owner_id == policy.owner_id)
        ):
            self._roots.append(row)

    def _leave_for_later(self, row: _Row) -> None:
        """Let a later sweep start before this run."""
        before = (row.created_at - timedelta(microseconds=1), row.id)
        if not self._is_resume_fixed or self.resume is None or before < self.resume:
            self.resume = before
        self._is_resume_fixed = True

    def _count(self, roots: Collection[uuid.UUID]) -> None:
        for members in _trees(roots).values():
            self.removed.trees += 1
            self.removed.runs += len(members)
            self.removed.events += sum(m.last_seq for m in members if m.log_removed_at is None)

    def _remove(self, roots: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Remove some trees, or their logs; return the roots of those that are done."""
        trees = _trees(roots)
        below = [m for root, members in trees.items() for m in members if m.id != root]
        freed = self._remove_logs(below)
        left = {m.root_id for m in below if m.log_removed_at is None and m.id not in freed}
        # The root's log goes last: its mark says that the logs of the whole tree are gone.
        last = [m for root, members in trees.items() for m in members if m.id == root]
        freed |= self._remove_logs(m for m in last if m.id not in left)
        if self.policy.what == "logs":
            gone = {m.id for m in last if m.log_removed_at is not None or m.id in freed}
            self.removed.trees += len(gone)
            self.removed.runs += len(freed)
            return gone
        with transaction.atomic():
            if not self._may_go_on():
                return set()
            gone = _remove_trees(trees.keys())
        self.removed.trees += len(gone)
        self.removed.runs += sum(len(trees[root]) for root in gone)
        return gone

    def _remove_logs(self, members: Iterable[_Member]) -> set[uuid.UUID]:
        """Remove the logs of runs, some at a time; return the runs whose logs are gone now."""
        freed: set[uuid.UUID] = set()
        for ids in _portions(members):
            with transaction.atomic():
                if not self._may_go_on():
                    break
                gone, count = _remove_logs(ids)
            freed |= gone
            self.removed.events += count
        return freed

    def _may_go_on(self) -> bool:
        if not self.is_alone or connection.vendor != "postgresql":
            return True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
            return bool(cursor.fetchone()[0])


def _page(after: Position | None, before: datetime) -> list[_Row]:
    """Return the next runs in the order of their creation, by the index on it.

    This reads only the oldest part of the table: a run that ended before an instant was created
    before it.
    """
    runs = RunRecord.objects.filter(created_at__lt=before).order_by("created_at", "id")
    if after is not None:
        at, id = after
        runs = runs.filter(Q(created_at__gt=at) | Q(created_at=at, id__gt=id), created_at__gte=at)
    return [_Row(*row) for row in runs.values_list(*_Row._fields)[:PAGE_COUNT]]


def _trees(roots: Collection[uuid.UUID]) -> dict[uuid.UUID, list[_Member]]:
    """Return the runs of the trees that have no active run, by their roots."""
    trees: dict[uuid.UUID, list[_Member]] = {root: [] for root in roots}
    for row in RunRecord.objects.filter(root__in=roots).values_list(*_Member._fields):
        trees[row[1]].append(_Member(*row))
    return {
        root: members
        for root, members in trees.items()
        if members and all(member.status in TERMINAL for member in members)
    }


def _portions(members: Iterable[_Member]) -> Iterator[list[uuid.UUID]]:
    """Divide the runs that have a log into parts for one transaction each."""
    part: list[uuid.UUID] = []
    left = EVENTS_AT_ONCE
    for member in members:
        if member.log_removed_at is not None:
            continue
        if part and member.last_seq > left:
            yield part
            part, left = [], EVENTS_AT_ONCE
        part.append(member.id)
        left -= member.last_seq
    if part:
        yield part


def _remove_logs(ids: Collection[uuid.UUID]) -> tuple[set[uuid.UUID], int]:
    """Remove the logs of finished runs, and mark the records.

    Returns the runs whose logs are gone now, without those that were locked, and the number of
    events removed.
    """
    free = set(_lock(Q(pk__in=ids, status__in=TERMINAL, log_removed_at=None), is_for_key=False))
    if not free:
        return free, 0
    count = RunEvent.objects.filter(run__in=free)._raw_delete(DEFAULT_DB_ALIAS)
    RunRecord.objects.filter(pk__in=free).update(log_removed_at=timezone.now())
    return free, count


def _remove_trees(roots: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Remove trees whose logs are gone and of which no run is locked; return their roots."""
    of_these = Q(root__in=roots)
    free = set(_lock(of_these, is_for_key=True))
    whole = set(roots)
    for member in RunRecord.objects.filter(of_these).values_list(*_Member._fields):
        one = _Member(*member)
        if one.id not in free or one.status not in TERMINAL or one.log_removed_at is None:
            whole.discard(one.root_id)
    # Django's collector would load every row, for signals that have no receivers. The database
    # checks the keys between the runs of a tree at the end of the transaction.
    RunInput.objects.filter(run__in=RunRecord.objects.filter(root__in=whole))._raw_delete(
        DEFAULT_DB_ALIAS
    )
    RunRecord.objects.filter(root__in=whole)._raw_delete(DEFAULT_DB_ALIAS)
    return whole


def _lock(which: Q, *, is_for_key: bool) -> list[uuid.UUID]:
    """Lock the runs that are not locked yet, in the one order in which runs are locked."""
    runs = RunRecord.objects.filter(which).order_by("depth", "pk")
    if connection.features.has_select_for_update_skip_locked:
        runs = runs.select_for_update(skip_locked=True, no_key=not is_for_key)
    return list(runs.values_list("pk", flat=True))
