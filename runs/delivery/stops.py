"""Deliver committed stop requests to runs: directly in this process, by message to others.

A message may be lost, so each worker polls twice a second for requests that its runs do not know,
for stops that became harder, and for runs that were abandoned (``deliver_missed``).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

from agents.cancellation import StopCause, StopMode
from runs.models import RunQuerySet, RunRecord
from runs.status import Status

from . import local_runs, notify
from .own_runs import OwnRuns
from .stop_message import StopDelivery

__all__ = ["committed_in", "deliver", "deliver_missed", "refresh_claim"]


def deliver(deliveries: Collection[StopDelivery]) -> None:
    """Trip the tokens of runs: in this process directly, in others by a message to the worker.

    Each worker gets the requests of its own runs: a run's children may be on another worker.
    """
    here = local_runs.trip(deliveries)
    notify.send_stops(delivery for delivery in deliveries if delivery.run not in here)


def deliver_missed(own: OwnRuns) -> None:
    """Trip the tokens of a worker's runs whose stop request came with no message.

    A query for all that are running, and one for those that were abandoned; none if none is missed.
    """
    roots = {
        row.root
        for run, row in own.noted
        if row.stop_mode
        # A token may have tripped itself, at its deadline.
        and (run.stop is None or local_runs.is_news(run.token, StopMode(row.stop_mode)))
    }
    if roots:
        # Only the runs of this process: for others trip() would wait for a claim in progress.
        local = [run for run in committed_in(roots) if local_runs.get(run.pk) is not None]
        local_runs.trip([StopDelivery.of(run) for run in local])
    _trip_abandoned(own.abandoned)


def _trip_abandoned(runs: Collection[local_runs.ActiveRun]) -> None:
    """Trip the tokens of those runs of this process that are over by being abandoned."""
    if not runs:
        return
    over = RunRecord.objects.filter(pk__in=[run.id for run in runs], stop_abandoned=True)
    local_runs.trip([StopDelivery.of(run) for run in over.select_related("stop_requested_by")])


def refresh_claim(run: local_runs.ActiveRun) -> None:
    """Trip the token of a run of this process if a stop was requested or the claim was lost."""
    record = (
        RunRecord.objects.only("root", "stop_requested_at")
        .filter(pk=run.id, worker=run.worker, attempt=run.attempt, status=Status.RUNNING)
        .filter(worker__lost_at=None)
        .first()
    )
    if record is None:
        _trip_abandoned([run])  # the cause that came first counts
        run.token.request(reason="the claim was lost", cause=StopCause.SHUTDOWN)
    elif record.stop_requested:
        local_runs.trip([StopDelivery.of(one) for one in committed_in([record.root_id])])


def committed_in(roots: Collection[uuid.UUID]) -> RunQuerySet:
    """Return the active runs of these trees that have a stop request.

    Tripping a token also trips the tokens below it. The log of each of those runs needs its own
    request.
    """
    return (
        RunRecord.objects.active()
        .select_related("stop_requested_by")
        .filter(root__in=roots, stop_requested_at__isnull=False)
    )
