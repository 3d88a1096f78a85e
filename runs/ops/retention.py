"""Remove old runs, or only their logs: whole finished trees, a little at a time.

A sweep reads the runs from the oldest on, in pages by index, so it costs the same in a table of a
million. Each transaction is short, and skips rows that are locked: a later sweep removes them. Any
number of sweeps may run at once. A sweep that is killed leaves nothing half done: a log goes in one
transaction with its mark, a tree goes as a whole.

The data store is no log and is not touched.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from runs.db.alias import alias, atomic, connection, on_commit
from runs.models import RunEvent, RunInput, RunRecord
from runs.quotas import ledger
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


Position = tuple[datetime, uuid.UUID]


@dataclass(slots=True)
class Sweep:
    """One pass through the runs; call ``step`` until it returns False.

    Attributes:
        is_alone: skip a step while another process does one.
        position: the last run that was read.
    """

    policy: Policy
    batch_count: int = BATCH_COUNT
    is_dry: bool = False
    is_alone: bool = False
    position: Position | None = None
    removed: Removed = field(default_factory=Removed)
    _roots: list[RunRecord] = field(default_factory=list)
    _before_left: Position | None = None

    @property
    def resume(self) -> Position | None:
        """The ``position`` for a later sweep of the same policy.

        All runs up to there are removed, or will never match.
        """
        return self._before_left or self.position

    def step(self) -> bool:
        """Read some runs, or remove some; return False when there are no more. Takes a moment.

        Raises:
            django.db.Error: the database refused; the step can be repeated.
        """
        if not self._roots:
            return self._read_page()
        roots = {run.pk: run for run in self._roots[: self.batch_count]}
        if self.is_dry:
            self._count(roots)
        else:
            gone = self._remove(roots)
            for id in roots.keys() - gone:
                self._leave_for_later(roots[id])
        del self._roots[: len(roots)]
        return True

    def _read_page(self) -> bool:
        runs = _page(self.position, self.policy.before)
        for run in runs:
            if run.parent_id is None:
                self._consider(run)
        if runs:
            self.position = (runs[-1].created_at, runs[-1].pk)
        return bool(runs)

    def _consider(self, run: RunRecord) -> None:
        policy = self.policy
        if run.finished_at is None or run.finished_at >= policy.before:
            self._leave_for_later(run)
        elif (
            (policy.what == "runs" or run.log_removed_at is None)
            and run.status in policy.statuses
            and policy.agent in ("", run.agent)
            and policy.owner_id in (None, run.owner_id)
        ):
            self._roots.append(run)

    def _leave_for_later(self, run: RunRecord) -> None:
        """Let a later sweep start before this run."""
        before = (run.created_at - timedelta(microseconds=1), run.pk)
        self._before_left = min(before, self._before_left or before)

    def _count(self, roots: Collection[uuid.UUID]) -> None:
        for members in _trees(roots).values():
            self.removed.trees += 1
            self.removed.runs += len(members)
            self.removed.events += sum(m.last_seq for m in members if m.log_removed_at is None)

    def _remove(self, roots: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Remove some trees, or their logs; return the roots of those that are done."""
        trees = _trees(roots)
        members = [member for tree in trees.values() for member in tree]
        freed = self._remove_logs(m for m in members if m.pk != m.root_id)
        # The root's log goes last: its mark says that the logs of the whole tree are gone.
        left = {m.root_id for m in members if not (_is_free(m, freed) or m.pk == m.root_id)}
        freed |= self._remove_logs(m for m in members if m.pk == m.root_id and m.pk not in left)
        if self.policy.what == "logs":
            gone = {m.pk for m in members if m.pk == m.root_id and _is_free(m, freed)}
            self.removed.trees += len(gone)
            self.removed.runs += len(freed)
            return gone
        with atomic():
            if not self._may_go_on():
                return set()
            gone = _remove_trees(trees.keys())
        self.removed.trees += len(gone)
        self.removed.runs += sum(len(trees[root]) for root in gone)
        return gone

    def _remove_logs(self, members: Iterable[RunRecord]) -> set[uuid.UUID]:
        """Remove the logs of runs, some at a time; return the runs whose logs are gone now."""
        freed: set[uuid.UUID] = set()
        for ids in _portions(members):
            with atomic():
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


def _page(after: Position | None, before: datetime) -> list[RunRecord]:
    """Return the next runs in the order of their creation, by the index on it.

    This reads only the oldest part of the table: a run that ended before an instant was created
    before it.
    """
    runs = RunRecord.objects.filter(created_at__lt=before).order_by("created_at", "id")
    if after is not None:
        at, id = after
        runs = runs.filter(Q(created_at__gt=at) | Q(created_at=at, id__gt=id), created_at__gte=at)
    fields = ("agent", "created_at", "finished_at", "log_removed_at", "owner", "parent", "status")
    return list(runs.only(*fields)[:PAGE_COUNT])


def _trees(roots: Collection[uuid.UUID]) -> dict[uuid.UUID, list[RunRecord]]:
    """Return the runs of the trees that have no active run, by their roots."""
    trees: dict[uuid.UUID, list[RunRecord]] = defaultdict(list)
    runs = RunRecord.objects.filter(root__in=roots)
    for run in runs.only("last_seq", "log_removed_at", "root", "status"):
        trees[run.root_id].append(run)
    return {root: tree for root, tree in trees.items() if all(run.is_terminal for run in tree)}


def _is_free(run: RunRecord, freed: Container[uuid.UUID]) -> bool:
    return run.log_removed_at is not None or run.pk in freed


def _portions(members: Iterable[RunRecord]) -> Iterator[list[uuid.UUID]]:
    """Divide the runs that have a log into parts for one transaction each."""
    part: list[uuid.UUID] = []
    left = EVENTS_AT_ONCE
    for member in members:
        if member.log_removed_at is not None:
            continue
        if part and member.last_seq > left:
            yield part
            part, left = [], EVENTS_AT_ONCE
        part.append(member.pk)
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
    runs = RunRecord.objects.filter(pk__in=free)
    _give_back(runs, "log_bytes")
    count = RunEvent.objects.filter(run__in=free)._raw_delete(alias())
    runs.update(log_removed_at=timezone.now(), log_bytes=0)
    return free, count


def _remove_trees(roots: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Remove trees whose logs are gone and of which no run is locked; return their roots."""
    runs = RunRecord.objects.filter(root__in=roots)
    free = set(_lock(Q(root__in=roots), is_for_key=True))
    whole = set(roots)
    for run in runs.only("log_removed_at", "root", "status"):
        if run.pk not in free or not run.is_terminal or run.log_removed_at is None:
            whole.discard(run.root_id)
    # Django's collector would load every row, for signals that have no receivers. The database
    # checks the keys between the runs of a tree at the end of the transaction.
    runs = RunRecord.objects.filter(root__in=whole)
    _give_back(runs, "value_bytes")
    RunInput.objects.filter(run__in=runs)._raw_delete(alias())
    runs._raw_delete(alias())
    return whole


def _give_back(runs: QuerySet[RunRecord], column: str) -> None:
    """Take from the usage of the owners what the caller's transaction is about to remove."""
    removed = list(runs.order_by().values_list("owner").annotate(total=Sum(column)))

    def after_commit() -> None:
        for owner, total in removed:
            ledger.add(owner, -int(total or 0))

    on_commit(after_commit, robust=True)


def _lock(which: Q, *, is_for_key: bool) -> list[uuid.UUID]:
    """Lock the runs that are not locked yet, in the one order in which runs are locked."""
    runs = RunRecord.objects.filter(which).order_by("depth", "pk")
    if connection.features.has_select_for_update_skip_locked:
        runs = runs.select_for_update(skip_locked=True, no_key=not is_for_key)
    return list(runs.values_list("pk", flat=True))
