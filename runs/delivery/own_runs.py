"""What the database says of the runs that a worker executes in this process.

The worker's heart reads it once a beat, for its limits, for stop requests whose message was lost,
for runs that were abandoned, and for runs that are not the worker's any more. A deletion by the ORM
asks its runs to stop (``runs.actions.owners``). A message may be lost, and SQL tells no code.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from django.db.models import BooleanField, ExpressionWrapper, Q

from agents.cancellation import StopCause, StopMode
from agents.options import NO_LIMITS, Limits
from runs.models import RunQuerySet, RunRecord
from runs.status import Status

from . import local_runs
from .local_runs import ActiveRun

__all__ = ["OwnRuns", "Row", "abort_lost", "read"]


class Row(NamedTuple):
    """What the record of a running run says to its worker's heart."""

    id: uuid.UUID
    attempt: int
    root: uuid.UUID
    stop_mode: str = ""  # empty without a request
    deadline_seconds: float | None = None
    idle_seconds: float | None = None
    call_seconds: float | None = None
    deadline_at: datetime | None = None
    deadline_above: datetime | None = None  # its caller's

    @property
    def limits(self) -> Limits:
        return Limits(self.deadline_seconds, self.idle_seconds, self.call_seconds)


@dataclass(frozen=True, slots=True)
class OwnRuns:
    """The runs of a worker in this process that its heart has something to do with.

    Attributes:
        noted: those that are running, and have limits or a stop request, or had limits; callers
            first.
        abandoned: those that are over by being abandoned.
        lost: those whose record was deleted, or is not of this claim any more.
    """

    noted: list[tuple[ActiveRun, Row]] = field(default_factory=list)
    abandoned: list[ActiveRun] = field(default_factory=list)
    lost: list[ActiveRun] = field(default_factory=list)


_IS_NOTED = ~Q(stop_mode="") | Q(deadline_at__isnull=False) | Q(idle_seconds__isnull=False)
_IS_NOTED |= Q(call_seconds__isnull=False)


def read(worker: uuid.UUID) -> OwnRuns:
    """Read what the database says of a worker's runs.

    One query for all of them, none without runs; another one for those with a limit or a stop
    request, and another if a record is not found as it was claimed. The thread that calls this also
    renews the lease, and a worker may have thousands of runs.
    """
    own = OwnRuns()
    # First: a run is registered here after its claim was committed. So what is not found is over,
    # or lost.
    entries = [run for run in local_runs.all_runs() if run.worker == worker and not _is_over(run)]
    if not entries:
        return own
    records = RunRecord.objects.filter(worker=worker).order_by()
    running = records.filter(status=Status.RUNNING)
    is_noted = ExpressionWrapper(_IS_NOTED, BooleanField())
    held = {
        (id, attempt): noted
        for id, attempt, noted in running.values_list("pk", "attempt", is_noted)
    }
    rows = _rows(running) if any(held.values()) else {}
    missing = []
    for run in entries:
        key = (run.id, run.attempt)
        row = rows.get(key)
        if key not in held:
            missing.append(run)
        elif row is not None:
            own.noted.append((run, row))
        elif run.limits != NO_LIMITS or run.deadline_at is not None:
            own.noted.append((run, Row(*key, root=run.id)))
    if missing:
        # An ending is committed a moment before its run is removed from this process.
        ended = records.filter(pk__in=[run.id for run in missing])
        is_abandoned = {
            (id, attempt): abandoned
            for id, attempt, abandoned in ended.values_list("pk", "attempt", "stop_abandoned")
        }
        for run in missing:
            match is_abandoned.get((run.id, run.attempt)):
                case None:
                    own.lost.append(run)
                case True:
                    own.abandoned.append(run)
    return own


def _rows(running: RunQuerySet) -> dict[tuple[uuid.UUID, int], Row]:
    noted = running.filter(_IS_NOTED).values_list(
        *("pk", "attempt", "root_id", "stop_mode"),
        *("deadline_seconds", "idle_seconds", "call_seconds"),
        *("deadline_at", "parent__deadline_at"),
    )
    return {(row.id, row.attempt): row for row in map(Row._make, noted)}


def abort_lost(own: OwnRuns) -> None:
    """Trip the tokens of runs that are not the worker's any more, by an abort.

    Not gracefully: what such a run still does can't be recorded, and a run without a record has no
    button that could make its stop harder.
    """
    for run in own.lost:
        if local_runs.get(run.id) is run:
            run.is_lost = True
            run.token.request(StopMode.ABORT, "the claim was lost", cause=StopCause.SHUTDOWN)


def _is_over(run: ActiveRun) -> bool:
    return run.is_lost or run.token.mode is StopMode.ABANDON
