"""End a run: turn the worker's report, or the loss of the worker, into a status.

1. ``finish_reported``, ``finish_lost``, ``finish_queued`` or ``finish_abandoned`` decides how a run
   ends: its worker reports it, its worker is lost, it is stopped or overdue in the queue, or it is
   given up.
2. ``_compose`` prepares the ending. ``_requeue`` prepares another attempt instead.
3. ``finish`` writes it.

The caller holds the lock of the run's row all the while. So the record still says whether a stop
was requested, and whether the run may be queued again.
"""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.utils import timezone

from agents.cancellation import StopMode
from agents.runtime import Outcome
from agents.trace import Event
from agents.values import jsonable
from agents.wire import ErrorInfo
from runs import events, transitions
from runs.db.alias import on_commit
from runs.delivery import notify
from runs.delivery.stop_message import StopRequest
from runs.models import RunRecord
from runs.process import metrics
from runs.queue.deadlines import deadline
from runs.quotas import ledger
from runs.quotas.sizes import size_of_values
from runs.signals import receivers, run_finished
from runs.status import Status
from runs.transitions import Change
from runs.wire import LeftBehindOnWire

from . import refusals
from .refusals import Care

__all__ = [
    "USAGE",
    "Ended",
    "Ending",
    "Finish",
    "deferred_fields",
    "finish",
    "finish_abandoned",
    "finish_lost",
    "finish_queued",
    "finish_reported",
    "note_unheld",
    "with_active_children",
    "worker_lost",
]


logger = logging.getLogger(__name__)

MOST_RETURNED = 10  # claims of a run that may be over before it begins


@dataclass(frozen=True, slots=True)
class Ending:
    """The report of a worker at the end of a run."""

    outcome: Outcome
    stop_recorded: StopMode | None  # the hardest of the log's stop_requested events
    calls_started_after_acknowledgement: int
    events_dropped: int
    is_fenced: bool = False  # the worker could not renew its lease in time, and stopped the run
    has_begun: bool = True  # the agent's code was called
    calls_cut: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The run's record after its ending was written."""

    run: uuid.UUID
    status: Status  # QUEUED when it was requeued
    result: Any = None
    error: dict[str, Any] | None = None
    is_abandoned: bool = False  # its code may still be running


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a run, or of one attempt, ready to be written."""

    record: RunRecord  # before the end
    ended: Ended
    change: Change
    events: list[Event]  # the last of the log

    def as_written(self) -> RunRecord:
        """Return the record after the end of the run."""
        run = copy.copy(self.record)
        for name, value in {
            "in_flight": [],
            "status": self.change.to,
            **self.change.fields,
        }.items():
            setattr(run, name, value)
        return run

    def count(self) -> None:
        """Count the ending, after its commit."""
        fields = self.change.fields
        if "value_bytes" in fields:
            ledger.add(self.record.owner_id, fields["value_bytes"] - self.record.value_bytes)
        if self.change.to is Status.QUEUED:
            return
        metrics.count_end(self.record.agent, self.change.to)
        if self.record.stop_requested_at is not None:
            cut = fields.get("stop_calls_cut", 0)
            metrics.count_stop(self.record.stop_mode, calls_cut=cut)
        is_started = self.change.held_by is not None
        if is_started and self.record.stop_requested_at is not None:
            metrics.observe_stop(
                self.record.agent,
                self.record.stop_requested_at,
                acknowledged_at=fields.get("stop_acknowledged_at"),
                observed_at=fields.get("stop_observed_at"),
                finished_at=fields["finished_at"],
            )


def finish(
    finishes: Sequence[Finish],
    *,
    log: Sequence[Event] = (),
    is_published: bool = True,
    care: Care = Care.WHOLE,
) -> tuple[list[Finish], list[Event]]:
    """Write endings of locked runs, in the caller's transaction; count them after the commit.

    ``log`` are events that come before the closing ones. With ``is_published`` the endings are
    published after the commit. The recorder publishes them itself, with a run's other updates.

    If the database refuses a value, the caller's transaction fails; call this again with ``care``
    in another one. Returns the endings, and ``log``, as they were written.
    """
    if care is not Care.WHOLE:
        finishes = [_without_refused(one, care) for one in finishes]
    written = transitions.apply([one.change for one in finishes])
    assert written == len(finishes), "the rows are locked, and their states were compared"
    last = [event for one in finishes for event in one.events]
    if care is Care.WHOLE:
        events.append([*log, *last])
    else:
        log, last = refusals.append(log, care), refusals.append(last, care)

    def after_commit() -> None:
        for one in finishes:
            one.count()
        if is_published:
            notify.publish_events(last)
            notify.publish_changes([(one.record.pk, one.record.root_id) for one in finishes])
        over = (one for one in finishes if one.change.to is not Status.QUEUED)
        receivers.send(
            run_finished,
            ({"run": one.as_written(), "status": str(one.change.to)} for one in over),
        )

    on_commit(after_commit, robust=True)
    return list(finishes), list(log)


def finish_queued(record: RunRecord, error: dict[str, Any] | None = None) -> Finish:
    """End a locked queued record: with ``error``; without, as ``stopped`` by a request."""
    fields: dict[str, Any] = {"last_seq": record.last_seq}
    if error is None:
        return _compose(record, Status.STOPPED, fields, requests=_unrecorded(record, None))
    return _compose(record, Status.ERROR, fields | {"error": error})


def finish_reported(
    record: RunRecord,
    ending: Ending,
    progress: Mapping[str, Any],
    left_out: Collection[str] = (),
) -> Finish:
    """End a locked running record as its worker reports it.

    ``progress`` are the other fields that the worker reports: ``last_seq``, usage, receipt.
    ``left_out`` are the names of those that the database has refused before.
    """
    outcome = ending.outcome
    fields = dict(progress)
    if record.error is not None or record.partial_result is not None:
        # An earlier try deferred the ending and committed, but the answer was lost.
        fields |= {"error": None, "partial_result": None}
    match outcome.kind:
        case "stopped" | "interrupted" if record.stop_requested:
            status = Status.STOPPED
            fields["partial_result"] = outcome.partial_result
            fields["stop_cleanup_error"] = _type_and_message(outcome.cleanup_error)
        case "interrupted" | "stopped":
            code = "worker_lost" if ending.is_fenced else "worker_shutdown"
            if not ending.has_begun and _may_be_returned(record):
                return _requeue(record, fields, code, has_begun=False)
            if _may_be_requeued(record):
                return _requeue(record, fields, code)
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
    fields["value_bytes"] = _value_bytes(record, fields)
    if record.stop_requested:
        # No guard and no should_stop() observed the stop before the run was over.
        fields["stop_finished_first"] = status is not Status.STOPPED
        if status is not Status.STOPPED:
            # Only a thread that the agent left running observed it, after the outcome was decided.
            fields["stop_observed_at"] = None
        fields["stop_calls_started_after_acknowledgement"] = (
            ending.calls_started_after_acknowledgement
        )
        fields["stop_calls_cut"] = ending.calls_cut
    return _compose(
        record,
        status,
        fields,
        requests=_unrecorded(record, ending.stop_recorded),
        dropped=ending.events_dropped,
        left_out=left_out,
    )


def deferred_fields(record: RunRecord, ending: Ending) -> dict[str, Any]:
    """Return the fields of a run whose ending is deferred until its children have ended.

    Its process shuts down. The recovery writes the ending once the children are over.
    """
    outcome = ending.outcome
    kept = outcome.result if outcome.partial_result is None else outcome.partial_result
    code = "worker_lost" if ending.is_fenced else "worker_shutdown"
    lost = _lost_error(record, code, is_fenced=ending.is_fenced)
    error = None if record.stop_requested else lost
    fields = {"in_flight": [], "partial_result": kept, "error": error}
    return fields | {"value_bytes": _value_bytes(record, fields)}


def with_active_children(runs: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of ``runs`` that have active children: they must not end yet.

    The caller holds the locks of ``runs``: without them a child could be inserted meanwhile.
    """
    if not runs:
        return set()
    children = RunRecord.objects.active().filter(parent__in=runs)
    return set(children.values_list("parent_id", flat=True))


def finish_lost(record: RunRecord, *, code: str) -> Finish:
    """End, or requeue, a locked running record whose worker is lost.

    ``stopped`` if a stop was requested. Queued again if it has not begun. Otherwise its agent's
    options decide: queued again, or an error with ``code``.
    """
    fields: dict[str, Any] = {"last_seq": record.last_seq}
    if record.stop_requested:
        recorded = events.recorded_stops([record.pk]).get(record.pk)
        fields["error"] = None
        fields["value_bytes"] = _value_bytes(record, fields)
        return _compose(record, Status.STOPPED, fields, requests=_unrecorded(record, recorded))
    if record.is_only_claimed and _may_be_returned(record):
        return _requeue(record, fields, code, has_begun=False)
    if _may_be_requeued(record):
        return _requeue(record, fields, code)
    fields["error"] = record.error or _lost_error(record, code)  # its worker may have written why
    fields["value_bytes"] = _value_bytes(record, fields)
    return _compose(record, Status.ERROR, fields)


def finish_abandoned(
    record: RunRecord,
    left_behind: list[LeftBehindOnWire],
    requests: Sequence[Mapping[str, Any]],
    *,
    usage_estimated: bool,
) -> Finish:
    """End a locked running record whose code is given up: it may run on, and changes nothing more.

    ``requests`` are the stop requests that its log lacks.
    """
    fields: dict[str, Any] = {
        "last_seq": record.last_seq,
        "stop_abandoned": True,
        "stop_left_behind": left_behind,
        "usage_estimated": record.usage_estimated or usage_estimated,
        "error": None,
    }
    fields["value_bytes"] = _value_bytes(record, fields)
    return _compose(record, Status.STOPPED, fields, requests=requests)


def _unrecorded(record: RunRecord, recorded: StopMode | None) -> list[dict[str, Any]]:
    """Return the stop requests of a record that its log lacks."""
    if not record.stop_requested:
        return []
    if recorded is not None and recorded.rank >= StopMode(record.stop_mode).rank:
        return []  # before the request is made: that may read who made it
    return StopRequest.of(record).events_after(recorded)


def note_unheld(record: RunRecord) -> None:
    """Clear the calls in flight of a locked running record whose worker is lost."""
    RunRecord.objects.filter(pk=record.pk, attempt=record.attempt).update(in_flight=[])
    concerned = [(record.pk, record.root_id)]
    on_commit(lambda: notify.publish_changes(concerned), robust=True)


def _compose(
    record: RunRecord,
    status: Status,
    fields: dict[str, Any],
    *,
    requests: Sequence[Mapping[str, Any]] = (),
    dropped: int = 0,
    left_out: Collection[str] = (),
) -> Finish:
    """Prepare a terminal status with ``fields`` and the events that close the log."""
    is_started = record.status == Status.RUNNING
    log: list[Event] = []
    seq = fields["last_seq"]
    for request in requests:
        seq += 1
        log.append(events.system_event(record, seq, "stop_requested", dict(request)))
    seq += 1
    fields["last_seq"] = seq
    fields["finished_at"] = _not_before(timezone.now(), record, fields)
    data: dict[str, Any] = {"status": status, "outcome": status, "started": is_started}
    if status is Status.ERROR:
        data["error"] = fields["error"]
    if record.stop_requested and is_started:
        data["finished_first"] = bool(fields.get("stop_finished_first", False))
    if fields.get("stop_abandoned"):
        data["abandoned"] = True
    if dropped:
        data["events_dropped"] = dropped
    if left_out:
        data[refusals.CODE] = sorted(left_out)
    log.append(events.system_event(record, seq, "agent_end", data))
    held_by = (record.worker_id, record.attempt) if is_started else None
    ended = Ended(record.pk, status, fields.get("result"), fields.get("error"))
    return Finish(record, ended, Change(record.pk, status, held_by, fields), log)


#: JSON whose cleaned form says nearly as much. Not the result: a changed one is none.
_MAY_BE_CLEANED = frozenset({"partial_result", "error", "stop_cleanup_error"})
_VALUES = ("result", "partial_result", "error")  # that count for the owner's quota
USAGE = frozenset({"llm_calls", "input_tokens", "output_tokens"})


def _without_refused(one: Finish, care: Care) -> Finish:
    """Return an ending without the values that the database refuses; its log names them.

    A success whose result is refused becomes an error, with what can be kept of the result as the
    partial result.
    """
    change = one.change
    if change.to is Status.QUEUED:
        return one  # all its values are our own
    to, fields = change.to, dict(change.fields)
    needed = {name: fields.pop(name) for name in ("last_seq", "finished_at")}
    if to is Status.ERROR:
        needed["error"] = _not_recorded({"error": "not tried"})

    def write(fields: dict[str, Any]) -> None:
        assert transitions.apply([replace(change, to=to, fields=fields)]) == 1

    kept, refused = refusals.taken(fields, needed, write, care, may_be_cleaned=_MAY_BE_CLEANED)
    if not refused:
        return one
    if USAGE & refused.keys():
        kept["usage_estimated"] = True
    if "result" in refused:
        to = Status.ERROR
        kept["error"] = _not_recorded(refused)
        part = {**kept, "partial_result": jsonable.clean(fields["result"])}
        if not refusals.is_refused(write, part, care):
            kept = part
    elif to is Status.ERROR and kept["error"] == needed["error"]:
        kept["error"] = _not_recorded(refused)
    if "value_bytes" in kept:  # the owner does not pay for what was left out
        kept["value_bytes"] = _value_bytes(one.record, kept)
    *before, end = one.events
    data = {**end.data, "status": to, "outcome": to, refusals.CODE: sorted(refused)}
    if to is Status.ERROR:
        data["error"] = kept["error"]
    run = one.record.pk
    logger.error("run %s: the database refused %s", run, ", ".join(refused), extra={"run": run})
    ended = Ended(run, to, kept.get("result"), kept.get("error"))
    change = replace(change, to=to, fields=kept)
    return Finish(one.record, ended, change, [*before, replace(end, data=data)])


def _value_bytes(record: RunRecord, fields: Mapping[str, Any]) -> int:
    """Return how many bytes a run counts for with ``fields``, in place of what its record has.

    The record has values if its ending was deferred. The quota does not refuse an ending: the
    owner's next start is refused instead.
    """
    before = (getattr(record, name) for name in _VALUES)
    after = (fields.get(name, getattr(record, name)) for name in _VALUES)
    # Not below 0: a record of an older release counts for nothing, and a value that was read again
    # may be longer than it was (PostgreSQL returns 1e300 with all its zeros).
    return max(0, record.value_bytes - size_of_values(*before) + size_of_values(*after))


def _not_recorded(refused: Mapping[str, str]) -> dict[str, Any]:
    """Return the error of a run whose result, or error, the database refused."""
    what = "; ".join(f"{name}: {why}" for name, why in refused.items())
    message = f"The database refused a part of what the run reported ({what})."
    return {"code": refusals.CODE, "type": "DatabaseError", "message": message}


def _not_before(now: datetime, record: RunRecord, fields: dict[str, Any]) -> datetime:
    """Return ``now``, or the run's latest instant if a host's clock made that one later."""
    names = (
        *("created_at", "started_at"),
        *("stop_requested_at", "stop_acknowledged_at", "stop_observed_at"),
    )
    before: list[datetime | None] = [fields.get(name, getattr(record, name)) for name in names]
    return max([now, *filter(None, before)])


def _may_be_requeued(record: RunRecord) -> bool:
    """Tell whether its agent allows another attempt."""
    if not record.requeue_on_loss or record.attempts_begun >= record.max_attempts:
        return False
    return _has_its_caller(record)


def _may_be_returned(record: RunRecord) -> bool:
    """Tell whether a run that has not begun may be queued again, whatever its agent declares.

    Not for ever: it may be what ends its workers, as by an input that takes all their memory. Not a
    called or adopted run either: its caller is lost with it.
    """
    is_allowed = record.holds_slot and record.returned_claims < MOST_RETURNED
    return is_allowed and _has_its_caller(record)


def _has_its_caller(record: RunRecord) -> bool:
    if record.parent_id is None:
        return True
    # When the caller runs again, it starts its children again.
    callers = RunRecord.objects.filter(pk=record.parent_id, status=Status.RUNNING)
    return callers.filter(worker__isnull=False, worker__lost_at=None).exists()


def _requeue(
    record: RunRecord, fields: dict[str, Any], code: str, *, has_begun: bool = True
) -> Finish:
    """Prepare to queue a run again. It keeps its turn, and so is one of the next to start."""
    seq = fields["last_seq"] + 1
    if has_begun:
        message = (
            f"requeued ({code}); attempt {record.attempts_begun} of {record.max_attempts} is over, "
            "another one starts afresh"
        )
    else:
        message = f"requeued ({code}); it had been claimed, and had not begun"
        fields["returned_claims"] = record.returned_claims + 1
    event = events.system_event(record, seq, "log", {"level": "warning", "message": message})
    fields |= {"last_seq": seq, "worker": None, "in_flight": [], "started_at": None}
    fields["is_only_claimed"] = False
    fields["queue_until"] = deadline(record.agent, timezone.now())
    fields |= {"partial_result": None, "error": None, "holds_slot": True}
    fields["value_bytes"] = _value_bytes(record, fields)
    change = Change(record.pk, Status.QUEUED, (record.worker_id, record.attempt), fields)
    return Finish(record, Ended(record.pk, Status.QUEUED), change, [event])


def _lost_error(record: RunRecord, code: str, *, is_fenced: bool = False) -> dict[str, Any]:
    messages = {
        "worker_lost": "Its worker was lost.",
        "worker_shutdown": "Its worker was shut down before the run ended.",
        "fenced": "Its worker could not renew its lease in time, and stopped the run.",
    }
    message = messages["fenced" if is_fenced else code]
    if record.is_only_claimed:
        message += f" It had not begun, and was claimed {record.attempt} times."
    elif record.requeue_on_loss and record.attempts_begun >= record.max_attempts:
        code = "worker_lost"
        message += f" All {record.max_attempts} attempts are used up."
    return worker_lost(message, code)


def worker_lost(message: str, code: str = "worker_lost") -> dict[str, Any]:
    """Return the error of a run whose worker cannot end it."""
    return {"code": code, "type": "WorkerLost", "message": message}


def _type_and_message(error: ErrorInfo | None) -> dict[str, str] | None:
    return None if error is None else {"type": error["type"], "message": error["message"]}
