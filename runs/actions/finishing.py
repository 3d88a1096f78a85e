"""How a run ends: what its worker knows of it, or that its worker is gone, becomes a status.

That depends on the record, too, under whose lock all of this is done: whether a stop was asked for,
whether the run may be begun again, whether anything below it goes on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from agents.runtime import ErrorInfo, Outcome
from agents.trace import Event
from runs import events, metrics, transitions
from runs.delivery import notify
from runs.delivery.stop_message import StopRequest
from runs.models import RunRecord
from runs.queue.claims import deadline
from runs.status import Status
from runs.transitions import Change

__all__ = [
    "Ended",
    "Ending",
    "Last",
    "end",
    "end_without_worker",
    "note_unheld",
    "put_off",
    "with_active_children",
]


@dataclass(frozen=True, slots=True)
class Ending:
    """What a worker knows at the end of a run."""

    outcome: Outcome
    stop_told: bool  # the log has the stop_requested event
    calls_started_after_acknowledgement: int
    events_dropped: int
    is_fenced: bool = False  # its worker could not renew its lease in time, and stopped it


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run's record stands after its ending was written."""

    run: uuid.UUID
    status: Status  # QUEUED when it was handed back
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Last:
    """The end of a run, ready to be written."""

    record: RunRecord  # as it was before
    ended: Ended
    change: Change
    words: list[Event]  # that close the log

    def count(self) -> None:
        """Count it, once it is committed."""
        if self.change.to is Status.QUEUED:
            return
        fields = self.change.fields
        metrics.RUNS_FINISHED.labels(self.change.to, self.record.agent).inc()
        if self.record.stop_requested_at is not None:
            metrics.observe_stop(
                self.record.stop_requested_at,
                acknowledged_at=fields.get("stop_acknowledged_at"),
                observed_at=fields.get("stop_observed_at"),
                finished_at=fields["finished_at"],
            )


def end(record: RunRecord, ending: Ending, progress: Mapping[str, Any]) -> Last:
    """Turn a worker's ending into a status: the one place where that is decided.

    ``progress`` are the fields that say how far the run has come.
    """
    outcome = ending.outcome
    fields = dict(progress)
    if record.error is not None or record.partial_result is not None:
        # It was put off before, by a try whose answer was lost.
        fields |= {"error": None, "partial_result": None}
    match outcome.kind:
        case "stopped" | "interrupted" if record.stop_requested:
            status = Status.STOPPED
            fields["partial_result"] = outcome.partial_result
            fields["stop_cleanup_error"] = _type_and_message(outcome.cleanup_error)
        case "interrupted" | "stopped":
            code = "worker_lost" if ending.is_fenced else "worker_shutdown"
            if _may_be_handed_back(record):
                return _hand_back(record, fields, code)
            status = Status.ERROR
            fields["partial_result"] = outcome.partial_result
            fields["error"] = _lost_error(record, code, is_fenced=ending.is_fenced)
        case "success":
            status = Status.SUCCESS
            fields["result"] = outcome.result
        case "error":
            status = Status.ERROR
            fields["partial_result"] = outcome.partial_result
            fields["error"] = outcome.error
    if record.stop_requested:
        # It is over, and no guard and no should_stop() met the stop before.
        fields["stop_finished_first"] = status is not Status.STOPPED
        if status is not Status.STOPPED:
            fields["stop_observed_at"] = None  # by a thread left behind, when all was decided
        fields["stop_calls_started_after_acknowledgement"] = (
            ending.calls_started_after_acknowledgement
        )
    return _finish(record, status, fields, told=ending.stop_told, dropped=ending.events_dropped)


def put_off(record: RunRecord, ending: Ending) -> dict[str, Any]:
    """Return the fields of a run whose ending has to wait for its children's.

    Its process goes away. Whoever finds it, once they are over, writes the ending.
    """
    outcome = ending.outcome
    kept = outcome.result if outcome.partial_result is None else outcome.partial_result
    code = "worker_lost" if ending.is_fenced else "worker_shutdown"
    lost = _lost_error(record, code, is_fenced=ending.is_fenced)
    error = None if record.stop_requested else lost
    return {"in_flight": [], "partial_result": kept, "error": error}


def with_active_children(runs: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of ``runs`` below which anything goes on: these must not end yet.

    Their rows are locked, or this may change.
    """
    if not runs:
        return set()
    children = RunRecord.objects.active().filter(parent__in=runs)
    return set(children.values_list("parent_id", flat=True))


def end_without_worker(record: RunRecord, *, code: str) -> Ended:
    """End, or hand back, a locked running record whose worker is gone.

    ``stopped`` if a stop was requested, else queued again or an error with ``code``, as its agent
    declares.
    """
    fields: dict[str, Any] = {"last_seq": record.last_seq}
    told = events.has_stop_requested(record.pk) if record.stop_requested else True
    if record.stop_requested:
        fields["error"] = None
        last = _finish(record, Status.STOPPED, fields, told=told)
    elif _may_be_handed_back(record):
        last = _hand_back(record, fields, code)
    else:
        fields["error"] = record.error or _lost_error(record, code)  # its own worker knew why
        last = _finish(record, Status.ERROR, fields, told=told)
    written = transitions.apply([last.change])
    assert written == 1, "the row is locked, and it was running"
    events.append(last.words)
    transaction.on_commit(last.count, robust=True)
    transaction.on_commit(lambda: notify.publish_events(last.words), robust=True)
    concerned = [(record.pk, record.root_id)]
    transaction.on_commit(lambda: notify.publish_changes(concerned), robust=True)
    return last.ended


def note_unheld(record: RunRecord) -> None:
    """Say of a locked running record, whose worker is gone, that nothing of it is in flight."""
    RunRecord.objects.filter(pk=record.pk, attempt=record.attempt).update(in_flight=[])
    concerned = [(record.pk, record.root_id)]
    transaction.on_commit(lambda: notify.publish_changes(concerned), robust=True)


def _finish(
    record: RunRecord, status: Status, fields: dict[str, Any], *, told: bool, dropped: int = 0
) -> Last:
    """Prepare the terminal status with ``fields``, and the events that close the log."""
    log: list[Event] = []
    seq = fields["last_seq"]
    if record.stop_requested and not told:
        seq += 1
        log.append(
            events.system_event(record, seq, "stop_requested", StopRequest.of(record).as_data())
        )
    seq += 1
    fields["last_seq"] = seq
    fields["finished_at"] = _not_before(timezone.now(), record, fields)
    data: dict[str, Any] = {"status": status, "outcome": status, "started": True}
    if status is Status.ERROR:
        data["error"] = fields["error"]
    if record.stop_requested:
        data["finished_first"] = bool(fields.get("stop_finished_first", False))
    if dropped:
        data["events_dropped"] = dropped
    log.append(events.system_event(record, seq, "agent_end", data))
    change = Change(record.pk, status, (record.worker_id, record.attempt), fields)
    ended = Ended(record.pk, status, fields.get("result"), fields.get("error"))
    return Last(record, ended, change, log)


def _not_before(now: datetime, record: RunRecord, fields: dict[str, Any]) -> datetime:
    """Return the instant of an ending: none that it follows is later, by whichever host's clock."""
    names = ("started_at", "stop_requested_at", "stop_acknowledged_at", "stop_observed_at")
    before: list[datetime | None] = [fields.get(name, getattr(record, name)) for name in names]
    return max([now, *filter(None, before)])


def _may_be_handed_back(record: RunRecord) -> bool:
    if not record.requeue_on_loss or record.attempt >= record.max_attempts:
        return False
    if record.parent_id is None:
        return True
    # A caller that begins afresh starts its children afresh.
    callers = RunRecord.objects.filter(pk=record.parent_id, status=Status.RUNNING)
    return callers.filter(worker__isnull=False, worker__lost_at=None).exists()


def _hand_back(record: RunRecord, fields: dict[str, Any], code: str) -> Last:
    """Prepare that it is queued again; with the turn that it had it is one of the first."""
    seq = fields["last_seq"] + 1
    message = (
        f"handed back ({code}); attempt {record.attempt} of {record.max_attempts} is over, "
        "another begins afresh"
    )
    event = events.system_event(record, seq, "log", {"level": "warning", "message": message})
    fields |= {"last_seq": seq, "worker": None, "in_flight": [], "started_at": None}
    fields["queue_until"] = deadline(record.agent, timezone.now())
    fields |= {"partial_result": None, "error": None, "holds_slot": True}
    change = Change(record.pk, Status.QUEUED, (record.worker_id, record.attempt), fields)
    return Last(record, Ended(record.pk, Status.QUEUED), change, [event])


def _lost_error(record: RunRecord, code: str, *, is_fenced: bool = False) -> dict[str, Any]:
    messages = {
        "worker_lost": "The worker that ran it went away without a word.",
        "worker_shutdown": "The worker that ran it was shut down before the run had ended.",
        "fenced": "The worker that ran it was out of touch for too long, and stopped it.",
    }
    message = messages["fenced" if is_fenced else code]
    if record.requeue_on_loss and record.attempt >= record.max_attempts:
        code = "worker_lost"
        message += f" It may be begun {record.max_attempts} times, and these are used up."
    return {"code": code, "type": "WorkerLost", "message": message}


def _type_and_message(error: ErrorInfo | None) -> dict[str, str] | None:
    return None if error is None else {"type": error["type"], "message": error["message"]}
