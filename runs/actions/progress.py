"""Write what a worker's runs did: log, calls in flight, usage, receipt, and the ending.

One transaction checks the fence and writes all updates of a run. So a result, its terminal status
and the whole log before it appear together or not at all.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from agents.trace import Event, Usage
from agents.wire import CallOnWire, Source
from runs import events
from runs.db.alias import atomic, connection
from runs.db.statements import read_by_key, read_keys
from runs.models import RunRecord
from runs.process import metrics
from runs.quotas import ledger
from runs.quotas.sizes import size_of_log
from runs.status import Status
from runs.transitions import ProgressRow, note_progress

from .finishing import (
    USAGE,
    Ended,
    Ending,
    Finish,
    deferred_fields,
    finish,
    finish_reported,
    with_active_children,
)
from .refusals import Care, taken

__all__ = ["Recorded", "Updates", "record_updates"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Updates:
    """The updates of one run since the last write."""

    run: uuid.UUID
    worker: uuid.UUID
    attempt: int
    events: list[Event] = field(default_factory=list)
    last_seq: int = 0
    in_flight: list[CallOnWire] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    acknowledged_at: datetime | None = None
    observed_at: datetime | None = None
    unwatched_threads: int = 0  # that its code has started, and that no code waits for
    unwatched_processes: int = 0
    unwatched_connections: int = 0  # that no guard saw
    ending: Ending | None = None
    left_out: set[str] = field(default_factory=set)  # usage that the database refused before


@dataclass(slots=True)
class Recorded:
    """The result of writing a batch.

    Attributes:
        gone: the runs that are not this worker's any more: how each ended just now, or None if its
            claim was lost, or its ending was deferred.
        log: the events that are committed and not yet published.
        changed: the runs, each with its root, whose status or receipt changed.
        callers: other workers, each with the runs that it started and that are over now.
        full: the runs whose owner has used up the quota of bytes: their logs are to be cut.
        refused: the runs of which the database refused some fields, with the names.
    """

    gone: dict[uuid.UUID, Ended | None] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)
    changed: list[tuple[uuid.UUID, uuid.UUID]] = field(default_factory=list)
    callers: dict[uuid.UUID, list[uuid.UUID]] = field(default_factory=dict)
    full: set[uuid.UUID] = field(default_factory=set)
    refused: dict[uuid.UUID, set[str]] = field(default_factory=dict)

    def add(self, other: Recorded) -> None:
        """Add the result of another batch."""
        self.gone |= other.gone
        self.log += other.log
        self.changed += other.changed
        self.full |= other.full
        self.refused |= other.refused
        for worker, runs in other.callers.items():
            self.callers.setdefault(worker, []).extend(runs)


_NOT_LOST = "SELECT id FROM runs_workerrecord WHERE id IN {} AND lost_at IS NULL"


def record_updates(batch: Sequence[Updates], care: Care = Care.WHOLE) -> Recorded:
    """Write the updates of many runs in one transaction.

    If the database refuses a value, nothing is written: call this again with more ``care``.
    """
    recorded = Recorded()
    finishes: list[Finish] = []
    stored: Counter[Any] = Counter()  # bytes, by owner; without those of endings
    with atomic():
        held = _held(batch, recorded)
        # An earlier try may have committed some events, with only its answer lost.
        new = [e for updates, record in held for e in updates.events if e.seq > record.last_seq]
        log = [event for updates, _ in held for event in updates.events]
        progress = []
        early = with_active_children([r.pk for n, r in held if n.ending and r.has_children])
        for updates, record in held:
            fields = _progress(updates, record)
            stored[record.owner_id] += fields["log_bytes"] - record.log_bytes
            if updates.ending is None:
                if record.stop_requested and _has_receipt_updates(updates, record):
                    recorded.changed.append((record.pk, record.root_id))
            elif updates.run in early:
                recorded.gone[updates.run] = None
                fields |= deferred_fields(record, updates.ending)
                stored[record.owner_id] += fields["value_bytes"] - record.value_bytes
            else:
                finishes.append(finish_reported(record, updates.ending, fields, updates.left_out))
                recorded.changed.append((record.pk, record.root_id))
                continue
            progress.append((updates.run, (updates.worker, updates.attempt), fields))
        if care is not Care.WHOLE:
            progress = [_without_refused(row, recorded, care) for row in progress]
        written = note_progress(progress)
        assert written == len(progress), "the rows are locked, and their claims were compared"
        finishes, new = finish(finishes, log=new, is_published=False, care=care)
        if care is not Care.WHOLE:  # the log has the events as they were written
            as_written = {(event.run, event.seq): event for event in new}
            log = [as_written.get((event.run, event.seq), event) for event in log]
        recorded.log += log
        for end in finishes:
            recorded.gone[end.record.pk] = end.ended
            recorded.log += end.events
        started = [r for n, r in held if n.ending and r.parent_id and r.holds_slot]
        recorded.callers = _callers_elsewhere(started)
    for owner, count in stored.items():
        ledger.add(owner, count)
    full = {owner for owner in stored if ledger.is_full(owner)}
    recorded.full = {updates.run for updates, record in held if record.owner_id in full}
    metrics.EVENTS.inc(len(new) + sum(len(end.events) for end in finishes))
    return recorded


def _without_refused(row: ProgressRow, recorded: Recorded, care: Care) -> ProgressRow:
    """Return a run's fields without the values that the database refuses, and note their names."""
    run, by, fields = row
    needed = {"last_seq": fields["last_seq"]}
    others = {name: value for name, value in fields.items() if name not in needed}

    def write(fields: dict[str, Any]) -> None:
        assert note_progress([(run, by, fields)]) == 1

    kept, refused = taken(others, needed, write, care, may_be_cleaned=_MAY_BE_CLEANED)
    if refused:
        recorded.refused[run] = set(refused)
        logger.error("run %s: the database refused %s", run, ", ".join(refused), extra={"run": run})
    if USAGE & refused.keys():
        kept["usage_estimated"] = True
    return run, by, kept


_MAY_BE_CLEANED = frozenset({"in_flight", "partial_result", "error"})


def _held(batch: Sequence[Updates], recorded: Recorded) -> list[tuple[Updates, RunRecord]]:
    """Lock the runs; return those that are still this worker's, and note the others as ``gone``."""
    # Without joins: PostgreSQL reads a row again that it had to wait for, but not the rows that
    # were joined to its old version. Every transaction locks callers before called runs.
    end = "ORDER BY depth, id"
    if connection.features.has_select_for_update:
        end += " FOR NO KEY UPDATE"
    locked = read_by_key(RunRecord, "id", [u.run for u in batch], order_and_lock=end)
    records = {record.pk: record for record in locked}
    # After the locks: a process declares a worker lost first, and then locks its runs. So this
    # query sees the loss, or that process waits for this transaction.
    good = {worker for (worker,) in read_keys(_NOT_LOST, {updates.worker for updates in batch})}
    held: list[tuple[Updates, RunRecord]] = []
    for updates in batch:
        record = records.get(updates.run)
        if record is None or (record.worker_id, record.attempt) != (
            updates.worker,
            updates.attempt,
        ):
            recorded.gone[updates.run] = None
        elif record.is_terminal:
            recorded.gone[updates.run] = _as_it_stands(record)
            recorded.log += _unpublished(updates, record)
        elif updates.worker not in good:
            recorded.gone[updates.run] = None
        else:
            held.append((updates, record))
    return held


def _callers_elsewhere(records: Sequence[RunRecord]) -> dict[uuid.UUID, list[uuid.UUID]]:
    """Return these runs by the worker of their caller, where that is another worker."""
    found: dict[uuid.UUID, list[uuid.UUID]] = {}
    if records:
        callers = RunRecord.objects.filter(pk__in={record.parent_id for record in records})
        workers = dict(callers.values_list("pk", "worker_id"))
        for record in records:
            worker = workers.get(cast(uuid.UUID, record.parent_id))
            if worker is not None and worker != record.worker_id:
                found.setdefault(worker, []).append(record.pk)
    return found


def _as_it_stands(record: RunRecord) -> Ended:
    status, is_abandoned = Status(record.status), record.stop_abandoned
    return Ended(record.pk, status, record.result, record.error, is_abandoned)


def _unpublished(updates: Updates, record: RunRecord) -> list[Event]:
    """Return the last events of a run that is over: from this batch on."""
    after = updates.events[0].seq - 1 if updates.events else record.last_seq - 1
    return [
        Event(str(e.run_id), e.seq, e.ts, e.type, e.agent, e.depth, cast(Source, e.source), e.data)
        for e in events.read(record.pk, after=after, limit=record.last_seq)
    ]


def _progress(updates: Updates, record: RunRecord) -> dict[str, Any]:
    new = (event for event in updates.events if event.seq > record.last_seq)
    fields = {
        "last_seq": max(updates.last_seq, record.last_seq),
        "log_bytes": record.log_bytes + size_of_log(new),
        "in_flight": updates.in_flight,
        "llm_calls": updates.usage.llm_calls,
        "input_tokens": updates.usage.input_tokens,
        "output_tokens": updates.usage.output_tokens,
        "usage_estimated": updates.usage.estimated or bool(updates.left_out),
        "unwatched_threads": updates.unwatched_threads,
        "unwatched_processes": updates.unwatched_processes,
        "unwatched_connections": updates.unwatched_connections,
        **_receipt(updates, record),
    }
    for name in updates.left_out:
        del fields[name]
    return fields


def _receipt(updates: Updates, record: RunRecord) -> dict[str, Any]:
    if not record.stop_requested:
        return {}  # a shutdown tripped the token: that is no stop request
    return {
        "stop_acknowledged_at": record.stop_acknowledged_at
        or _since(updates.acknowledged_at, record),
        "stop_observed_at": record.stop_observed_at or _since(updates.observed_at, record),
    }


def _has_receipt_updates(updates: Updates, record: RunRecord) -> bool:
    return (updates.acknowledged_at is not None and record.stop_acknowledged_at is None) or (
        updates.observed_at is not None and record.stop_observed_at is None
    )


def _since(instant: datetime | None, record: RunRecord) -> datetime | None:
    """Return ``instant``, or that of the request if a shutdown tripped the token before it."""
    assert record.stop_requested_at is not None
    return None if instant is None else max(instant, record.stop_requested_at)
