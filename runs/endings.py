"""How a run's record follows its agent: log, receipt, and the ending that becomes a status.

These are the writes of a worker, or, for a run whose worker is gone, of whoever finds it. All of
one run's news is written in one transaction with the fence: a result, its terminal status and the
whole log before it appear together or not at all.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from django.db import transaction
from django.utils import timezone

from agents.runtime import ErrorInfo, Outcome
from agents.trace import CallInfo, Event, Source, Usage

from . import events, live, metrics, transitions
from .active import StopRequest
from .models import RunRecord
from .queue import deadline
from .statements import read_keys
from .status import Status
from .transitions import Change, note_progress

__all__ = [
    "Ended",
    "Ending",
    "News",
    "Recorded",
    "end_without_worker",
    "has_active_children",
    "note_unheld",
    "record_news",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """What a worker knows at the end of a run."""

    outcome: Outcome
    stop_told: bool  # the log has the stop_requested event
    calls_started_after_acknowledgement: int
    events_dropped: int
    is_fenced: bool = False  # its worker could not renew its lease in time, and stopped it


@dataclass(slots=True)
class News:
    """What has happened in one run since the last write."""

    run: uuid.UUID
    worker: uuid.UUID
    attempt: int
    events: list[Event] = field(default_factory=list)
    last_seq: int = 0
    in_flight: list[CallInfo] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    acknowledged_at: datetime | None = None
    observed_at: datetime | None = None
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run's record stands after its ending was written."""

    run: uuid.UUID
    status: Status  # QUEUED when it was handed back
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class Recorded:
    """What came of writing a batch.

    Attributes:
        gone: has the runs that are not this worker's any more: how each ended just now, or None
            when its claim was lost and nothing of it was written.
        log: the events that are committed, and of which nobody was told yet.
        changed: the runs, each with its root, whose status or receipt reads otherwise now.
        callers: workers elsewhere, with those of these runs that are over and were started there.
    """

    gone: dict[uuid.UUID, Ended | None] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)
    changed: list[tuple[uuid.UUID, uuid.UUID]] = field(default_factory=list)
    callers: dict[uuid.UUID, list[uuid.UUID]] = field(default_factory=dict)


_NOT_LOST = "SELECT id FROM runs_workerrecord WHERE id IN {} AND lost_at IS NULL"


def record_news(batch: Sequence[News]) -> Recorded:
    """Write the news of many runs in one transaction."""
    recorded = Recorded()
    with transaction.atomic():
        records = {
            record.pk: record
            # Nothing joined: PostgreSQL reads a row anew that it had to wait for, and not what was
            # joined to what the row was before.
            for record in RunRecord.objects.select_for_update(no_key=True)
            .filter(pk__in=[news.run for news in batch])
            .order_by("depth", "pk")  # everybody locks callers before called
        }
        # Asked behind the locks: whoever declares a worker lost deals with its runs after that,
        # and waits for us.
        good = {worker for (worker,) in read_keys(_NOT_LOST, {news.worker for news in batch})}
        held: list[tuple[News, RunRecord]] = []
        for news in batch:
            record = records.get(news.run)
            if record is None or (record.worker_id, record.attempt) != (news.worker, news.attempt):
                recorded.gone[news.run] = None
            elif record.is_terminal:
                recorded.gone[news.run] = _as_it_stands(record)
                recorded.log += _untold(news, record)
            elif news.worker not in good:
                recorded.gone[news.run] = None
            else:
                held.append((news, record))
        # What has been committed before, by a try whose answer was lost, is not written again.
        new = [e for news, record in held for e in news.events if e.seq > record.last_seq]
        recorded.log += [event for news, _ in held for event in news.events]
        progress = []
        lasts: list[_Last] = []
        early = _with_children([r.pk for n, r in held if n.ending and r.has_children])
        for news, record in held:
            if news.ending is not None and news.run in early:
                recorded.gone[news.run] = None
                by = (news.worker, news.attempt)
                progress.append((news.run, by, _put_off(news, news.ending, record)))
                continue
            if news.ending is None:
                by = (news.worker, news.attempt)
                progress.append((news.run, by, _progress(news, record)))
                if record.stop_requested and _has_receipt_news(news, record):
                    recorded.changed.append((record.pk, record.root_id))
                continue
            recorded.changed.append((record.pk, record.root_id))
            last = _end(news, news.ending, record)
            lasts.append(last)
            recorded.gone[news.run] = last.ended
            recorded.log += last.words
            new += last.words
        written = note_progress(progress) + transitions.apply([last.change for last in lasts])
        assert written == len(held), "the rows are locked, and their claims were compared"
        events.append(new)
        started = [r for n, r in held if n.ending and r.parent_id and r.holds_slot]
        recorded.callers = _callers_elsewhere(started)
    metrics.EVENTS.inc(len(new))
    for last in lasts:
        last.count()
    return recorded


def _callers_elsewhere(records: Sequence[RunRecord]) -> dict[uuid.UUID, list[uuid.UUID]]:
    """Map the workers of those that have started these runs to them, where it is another one."""
    found: dict[uuid.UUID, list[uuid.UUID]] = {}
    if records:
        callers = RunRecord.objects.filter(pk__in={record.parent_id for record in records})
        workers = dict(callers.values_list("pk", "worker_id"))
        for record in records:
            worker = workers.get(cast(uuid.UUID, record.parent_id))
            if worker is not None and worker != record.worker_id:
                found.setdefault(worker, []).append(record.pk)
    return found


def has_active_children(run: uuid.UUID) -> bool:
    """Tell whether anything below a run goes on; the run's row is locked, or this may change."""
    return bool(_with_children([run]))


def _with_children(runs: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    if not runs:
        return set()
    children = RunRecord.objects.active().filter(parent__in=runs)
    return set(children.values_list("parent_id", flat=True))


def _put_off(news: News, ending: Ending, record: RunRecord) -> dict[str, Any]:
    """Prepare what is known of a run whose ending has to wait for its children's.

    Its process goes away. Whoever finds it, once they are over, writes the ending.
    """
    outcome = ending.outcome
    kept = outcome.result if outcome.partial_result is None else outcome.partial_result
    code = "worker_lost" if ending.is_fenced else "worker_shutdown"
    lost = _lost_error(record, code, is_fenced=ending.is_fenced)
    error = None if record.stop_requested else lost
    return {**_progress(news, record), "in_flight": [], "partial_result": kept, "error": error}


@dataclass(frozen=True, slots=True)
class _Last:
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


def _as_it_stands(record: RunRecord) -> Ended:
    return Ended(record.pk, Status(record.status), record.result, record.error)


def _untold(news: News, record: RunRecord) -> list[Event]:
    """Return what the log of a run that is over has behind what was told of it."""
    after = news.events[0].seq - 1 if news.events else record.last_seq - 1
    return [
        Event(str(e.run_id), e.seq, e.ts, e.type, e.agent, e.depth, cast(Source, e.source), e.data)
        for e in events.read(record.pk, after=after, limit=record.last_seq)
    ]


def _progress(news: News, record: RunRecord) -> dict[str, Any]:
    return {
        "last_seq": max(news.last_seq, record.last_seq),
        "in_flight": news.in_flight,
        "llm_calls": news.usage.llm_calls,
        "input_tokens": news.usage.input_tokens,
        "output_tokens": news.usage.output_tokens,
        "usage_estimated": news.usage.estimated,
        **_receipt(news, record),
    }


def _receipt(news: News, record: RunRecord) -> dict[str, Any]:
    if not record.stop_requested:
        return {}  # the token was tripped by a shutdown, which is nobody's wish
    return {
        "stop_acknowledged_at": record.stop_acknowledged_at or _since(news.acknowledged_at, record),
        "stop_observed_at": record.stop_observed_at or _since(news.observed_at, record),
    }


def _has_receipt_news(news: News, record: RunRecord) -> bool:
    return (news.acknowledged_at is not None and record.stop_acknowledged_at is None) or (
        news.observed_at is not None and record.stop_observed_at is None
    )


def _since(instant: datetime | None, record: RunRecord) -> datetime | None:
    """Count what a shutdown had brought about before the request from the request on."""
    assert record.stop_requested_at is not None
    return None if instant is None else max(instant, record.stop_requested_at)


def _end(news: News, ending: Ending, record: RunRecord) -> _Last:
    """Turn a worker's ending into a status: the one place where that is decided."""
    outcome = ending.outcome
    fields = _progress(news, record)
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
    transaction.on_commit(lambda: live.publish_events(last.words), robust=True)
    concerned = [(record.pk, record.root_id)]
    transaction.on_commit(lambda: live.publish_changes(concerned), robust=True)
    return last.ended


def note_unheld(record: RunRecord) -> None:
    """Say of a locked running record, whose worker is gone, that nothing of it is in flight."""
    RunRecord.objects.filter(pk=record.pk, attempt=record.attempt).update(in_flight=[])
    concerned = [(record.pk, record.root_id)]
    transaction.on_commit(lambda: live.publish_changes(concerned), robust=True)


def _finish(
    record: RunRecord, status: Status, fields: dict[str, Any], *, told: bool, dropped: int = 0
) -> _Last:
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
    return _Last(record, ended, change, log)


def _not_before(now: datetime, record: RunRecord, fields: dict[str, Any]) -> datetime:
    """Return the instant of an ending: none that it follows is later, by whichever host's clock."""
    before = (
        record.started_at,
        record.stop_requested_at,
        fields.get("stop_acknowledged_at"),
        fields.get("stop_observed_at"),
    )
    return max(now, *(instant for instant in before if instant is not None))


def _may_be_handed_back(record: RunRecord) -> bool:
    if not record.requeue_on_loss or record.attempt >= record.max_attempts:
        return False
    if record.parent_id is None:
        return True
    # A caller that begins afresh starts its children afresh.
    callers = RunRecord.objects.filter(pk=record.parent_id, status=Status.RUNNING)
    return callers.filter(worker__isnull=False, worker__lost_at=None).exists()


def _hand_back(record: RunRecord, fields: dict[str, Any], code: str) -> _Last:
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
    return _Last(record, Ended(record.pk, Status.QUEUED), change, [event])


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
