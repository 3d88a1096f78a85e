"""Give up runs whose code does not come back, and note when it does.

The process that is asked to abandon a run ends it in the same transaction, without its worker: that
one may be frozen, or out of reach. From then on the run's status fences all that the worker writes.
Only one thing is still written of the code that was left behind: when it has ended.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.utils import timezone

from runs import events
from runs.db.alias import atomic, on_commit
from runs.delivery import local_runs, notify
from runs.delivery.stop_message import StopRequest
from runs.models import RunQuerySet, RunRecord, WorkerRecord
from runs.wire import LeftBehindOnWire

from .finishing import Finish, finish_abandoned

__all__ = ["abandon", "note_left", "note_left_by_lost", "note_unexecuted"]

logger = logging.getLogger(__name__)

#: For how long after it was abandoned, or its worker lost, an end of code is looked for.
RECENT = timedelta(days=1)


def abandon(records: Iterable[RunRecord], before: Mapping[uuid.UUID, StopRequest]) -> list[Finish]:
    """Prepare the ends of locked running records that were asked to be abandoned.

    ``before`` has the requests of those that were stopped more gently until now.
    """
    deepest_first = sorted(records, key=lambda record: -record.depth)  # children end first
    recorded = events.recorded_stops([record.pk for record in deepest_first])
    ends = []
    for record in deepest_first:
        has, earlier = recorded.get(record.pk), before.get(record.pk)
        requests = earlier.events_after(has) if earlier is not None else []
        requests.append(StopRequest.of(record).as_data())
        is_in_model = any(call["tool"] == "call_llm" for call in record.in_flight)
        ends.append(
            finish_abandoned(record, _left_behind(record), requests, usage_estimated=is_in_model)
        )
    _tell_callers(deepest_first)
    return ends


def _left_behind(record: RunRecord) -> list[LeftBehindOnWire]:
    """Return what was running: the calls in flight, or else the agent's own code."""
    found: list[LeftBehindOnWire] = [
        {
            "kind": call["tool"],
            "label": call["label"],
            "since": call["started_at"],
            "ended_at": None,
        }
        for call in record.in_flight
    ]
    assert record.started_at is not None, "it is running"
    since = record.started_at.astimezone(UTC).isoformat()
    return found or [{"kind": "code", "label": record.agent, "since": since, "ended_at": None}]


def _tell_callers(records: Sequence[RunRecord]) -> None:
    """After the commit, let the workers of callers poll: those that are not abandoned wait."""
    abandoned = {record.pk for record in records}
    waiting = {r.parent_id for r in records if r.parent_id and r.parent_id not in abandoned}
    if not waiting:
        return
    workers = dict(RunRecord.objects.filter(pk__in=waiting).values_list("pk", "worker_id"))
    ended: dict[uuid.UUID, list[uuid.UUID]] = {}
    for record in records:
        worker = workers.get(record.parent_id) if record.parent_id else None
        if worker is not None:
            ended.setdefault(worker, []).append(record.pk)

    def tell() -> None:
        for worker, runs in ended.items():
            notify.send_ended(worker, runs)

    on_commit(tell, robust=True)


def note_left(run: uuid.UUID, worker: uuid.UUID, attempt: int) -> bool:
    """Write that the code of an abandoned run has ended; return whether that was news.

    ``worker`` and ``attempt`` are the claim under which the code ran. May be repeated.
    """
    held = RunRecord.objects.filter(pk=run, worker=worker, attempt=attempt)
    return _note(held, timezone.now()) > 0


def note_left_by_lost(worker: uuid.UUID | None = None) -> int:
    """Write that the code has ended which lost workers have left behind; return of how many runs.

    Of one worker, or of all that were lost lately. It ended with the process, at the latest when
    the worker was declared lost.
    """
    lost = WorkerRecord.objects.filter(lost_at__gt=timezone.now() - RECENT)
    if worker is not None:
        lost = lost.filter(pk=worker)
    times = dict(lost.values_list("pk", "lost_at"))
    return sum(_note(RunRecord.objects.filter(worker=id), at) for id, at in times.items() if at)


def note_unexecuted(worker: uuid.UUID) -> int:
    """Write an end for abandoned runs that this process's worker has claimed and does not execute.

    Such a run exists if the connection broke after its claim was committed, or if its end could not
    be noted. Returns how many there were.
    """
    lately = timezone.now() - RECENT
    mine = RunRecord.objects.filter(worker=worker, stop_abandoned=True, finished_at__gt=lately)
    rows = list(mine.values_list("pk", "attempt"))
    with local_runs.claiming():  # otherwise a claim may be committed and not registered yet
        left = [
            (id, attempt)
            for id, attempt in rows
            if (entry := local_runs.get(id)) is None
            or (entry.worker, entry.attempt) != (worker, attempt)
        ]
    return sum(note_left(id, worker, attempt) for id, attempt in left)


def _note(runs: RunQuerySet, at: datetime) -> int:
    count = 0
    fields = ("root", "stop_left_behind")
    abandoned = runs.filter(stop_abandoned=True).only(*fields)
    for run in [one.pk for one in abandoned if _may_run(one)]:
        with atomic():
            locked = RunRecord.objects.select_for_update(no_key=True).only(*fields)
            record = locked.filter(pk=run).first()
            if record is None or not _may_run(record):  # another process was faster
                continue
            ended_at = at.astimezone(UTC).isoformat()
            left: list[LeftBehindOnWire] = record.stop_left_behind or []
            now = [{**one, "ended_at": one["ended_at"] or ended_at} for one in left]
            RunRecord.objects.filter(pk=run).update(stop_left_behind=now)
        notify.publish_changes([(run, record.root_id)])
        count += 1
        logger.info("the code of the abandoned run %s has ended", run, extra={"run": run})
    return count


def _may_run(record: RunRecord) -> bool:
    """Tell whether the end of some of the code that a run has left behind is not noted."""
    return any(not one["ended_at"] for one in record.stop_left_behind or ())
