"""Abort the runs of this process whose record was deleted, or is another worker's.

A deletion by the ORM asks its runs to stop (``runs.actions.owners``). A message may be lost, and
SQL tells no code. So each worker also compares its runs with the table, twice a second.
"""

from __future__ import annotations

import uuid

from agents.cancellation import StopCause, StopMode
from runs.models import RunRecord
from runs.status import Status

from . import local_runs

__all__ = ["abort_lost"]


def abort_lost(worker: uuid.UUID) -> None:
    """Trip the tokens of a worker's runs that are not its own any more, by an abort.

    Not gracefully: what such a run still does can't be recorded, and a run without a record has no
    button that could make its stop harder. One query for all runs, none without runs.
    """
    # First: a run is registered here after its claim was committed. So what is not found is over,
    # or lost.
    runs = [run for run in local_runs.all_runs() if run.worker == worker and not _is_cut(run)]
    if not runs:
        return
    records = RunRecord.objects.filter(worker=worker)
    held = set(records.filter(status=Status.RUNNING).values_list("pk", "attempt"))
    missing = [run for run in runs if (run.id, run.attempt) not in held]
    if not missing:
        return
    # An ending is committed a moment before its run is removed from this process.
    ended = set(
        records.filter(pk__in=[run.id for run in missing]).values_list("pk", "attempt"),
    )
    for run in missing:
        if (run.id, run.attempt) not in ended and local_runs.get(run.id) is run:
            run.token.request(StopMode.ABORT, "the claim was lost", cause=StopCause.SHUTDOWN)


def _is_cut(run: local_runs.ActiveRun) -> bool:
    return run.token.mode is not None and run.token.mode.rank >= StopMode.ABORT.rank
