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

from agents.cancellation import StopCause, StopMode
from agents.options import Limits
from runs.models import RunRecord
from runs.status import Status

from . import local_runs
from .local_runs import ActiveRun

__all__ = ["OwnRuns", "Row", "abort_lost", "read"]


class Row(NamedTuple):
    """What the record of a running run says to its worker's heart."""

    id: uuid.UUID
    attempt: int
    root: uuid.UUID
    stop_mode: str  # empty without a request
    deadline_seconds: float | None
    idle_seconds: float | None
    call_seconds: float | None
    deadline_at: datetime | None
    deadline_above: datetime | None  # its caller's

    @property
    def limits(self) -> Limits:
        return Limits(self.deadline_seconds, self.idle_seconds, self.call_seconds)


@dataclass(frozen=True, slots=True)
class OwnRuns:
    """The runs of a worker in this process, without those that are known to be over for it.

    Attributes:
        held: those that are running, callers first.
        abandoned: those that are over by being abandoned.
        lost: those whose record was deleted, or is not of this claim any more.
    """

    held: list[tuple[ActiveRun, Row]] = field(default_factory=list)
    abandoned: list[ActiveRun] = field(default_factory=list)
    lost: list[ActiveRun] = field(default_factory=list)


def read(worker: uuid.UUID) -> OwnRuns:
    """Read what the database says of a worker's runs.

    One query for all of them, none without runs; a second one if a record is not found as it was
    claimed. The thread that calls this also renews the lease.
    """
    own = OwnRuns()
    # First: a run is registered here after its claim was committed. So what is not found is over,
    # or lost.
    entries = [run for run in local_runs.all_runs() if run.worker == worker and not _is_over(run)]
    if not entries:
        return own
    records = RunRecord.objects.filter(worker=worker).order_by()
    running = records.filter(status=Status.RUNNING).values_list(
        *("pk", "attempt", "root_id", "stop_mode"),
        *("deadline_seconds", "idle_seconds", "call_seconds"),
        *("deadline_at", "parent__deadline_at"),
    )
    rows = {(row.id, row.attempt): row for row in map(Row._make, running)}
    missing = []
    for run in entries:
        row = rows.get((run.id, run.attempt))
        if row is None:
            missing.append(run)
        else:
            own.held.append((run, row))
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
