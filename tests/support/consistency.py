"""Invariants of every run, whatever happened to it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from agents.cancellation import StopMode
from agents.trace import EVENT_TYPES
from runs.models import RunEvent, RunRecord
from runs.status import TERMINAL, Status

CALLS = ("llm_call", "data_store", "http", "agent_call")
#: What the log of a run may contain before its agent starts.
START_TYPES = ("stop_requested", "log")


def assert_consistent(run: RunRecord | uuid.UUID) -> RunRecord:
    """Check a finished run, its log and its receipt, and all runs below it; return it."""
    record = _with_everything().get(pk=run.pk if isinstance(run, RunRecord) else run)
    _check(record)
    for child in record.children.all():
        assert_consistent(child)
    return record


def assert_all_consistent(*, clocks_differ: bool = False) -> list[RunRecord]:
    """Check every run; all of them are finished.

    ``clocks_differ``: hosts with different clocks wrote the instants of the logs, and of the ends
    of callers and called agents, so their order is not checked.
    """
    records = list(_with_everything().order_by("created_at"))
    for record in records:
        _check(record, clocks_differ=clocks_differ)
    return records


def _with_everything() -> QuerySet[RunRecord]:
    """Return runs with everything that is checked, in a fixed number of queries."""
    runs = RunRecord.objects.select_related("worker", "stop_requested_by", "parent")
    return runs.prefetch_related("events", "children")


def _check(record: RunRecord, *, clocks_differ: bool = False) -> None:
    log = sorted(record.events.all(), key=lambda event: event.seq)
    if record.log_removed_at is not None:
        assert log == [], "retention removes a log as a whole"
        return
    try:
        _check_log(record, log)
        assert clocks_differ or _is_in_order(log), "the log goes back in time"
        _check_ending(record, log)
        _check_receipt(record, log)
        _check_usage(record, log)
        _check_tree(record, log)
        assert clocks_differ or _ended_last(record), "a child ended after its caller"
    except AssertionError as error:
        lines = "\n".join(f"  {e.seq} {e.ts.time()} {e.type} {e.data}" for e in log)
        error.add_note(f"{record.agent} {record.pk} {_receipt(record)}\n{lines}")
        raise


def _receipt(record: RunRecord) -> dict[str, Any]:
    names = [f.name for f in record._meta.concrete_fields if f.name.startswith("stop_")]
    names += ["status", "attempt", "last_seq", "error", "started_at", "finished_at"]
    return {name: getattr(record, name) for name in names if getattr(record, name)}


def _check_log(record: RunRecord, log: list[RunEvent]) -> None:
    assert [e.seq for e in log] == list(range(1, record.last_seq + 1)), "seq has a gap"
    assert log, "a finished run has at least its end in the log"
    assert all((e.agent, e.depth) == (record.agent, record.depth) for e in log)
    assert {e.type for e in log} <= set(EVENT_TYPES)
    assert {e.source for e in log} <= {"system", "agent"}
    assert all(isinstance(e.data, dict) for e in log)
    assert [e.type for e in log].count("agent_end") == 1
    assert log[-1].type == "agent_end", "agent_end is last"
    starts = [e.seq for e in log if e.type == "agent_start"]
    assert len(starts) <= max(record.attempt, 0), "one agent_start for each attempt"
    if starts:
        before = {e.type for e in log[: starts[0] - 1]}
        assert before <= set(START_TYPES), "the agent did something before it started"
    else:
        assert {e.type for e in log} <= {*START_TYPES, "error", "agent_end"}
    calls = [e.data["call"] for e in log if e.type in CALLS]
    if record.attempt <= 1:
        assert len(calls) == len(set(calls)), "one event for a call"


def _is_in_order(log: list[RunEvent]) -> bool:
    return [e.ts for e in log] == sorted(e.ts for e in log)


def _check_ending(record: RunRecord, log: list[RunEvent]) -> None:
    assert record.status in TERMINAL
    assert record.finished_at is not None
    assert record.in_flight == []
    if record.started_at is not None:
        assert record.created_at <= record.started_at <= record.finished_at
    end = log[-1].data
    assert end["status"] == record.status
    assert end.get("error") == (record.error if record.status == Status.ERROR else None)
    if record.status == Status.SUCCESS:
        assert record.error is None
        assert record.partial_result is None
    elif record.status == Status.ERROR:
        assert record.result is None
        assert record.error is not None
        assert set(record.error) == {"code", "type", "message"}
    else:
        assert record.result is None
        assert record.error is None


def _check_receipt(record: RunRecord, log: list[RunEvent]) -> None:
    requests = [e for e in log if e.type == "stop_requested"]
    observations = [e for e in log if e.type == "stop_observed"]
    assert len(observations) <= max(record.attempt, 1)
    assert record.stop_calls_started_after_acknowledgement == 0
    assert record.stop_finished_first == (record.stop_requested and record.status != Status.STOPPED)
    if not record.stop_requested:
        assert record.status != Status.STOPPED
        assert not requests
        assert not any((record.stop_mode, record.stop_via, record.stop_requested_by))
        assert not any((record.stop_acknowledged_at, record.stop_observed_at))
        assert record.stop_cleanup_error is None
        return
    _check_requests(record, requests)
    _check_abandoned(record, log)
    instants = [
        record.stop_requested_at,
        record.stop_acknowledged_at,
        record.stop_observed_at,
        record.finished_at,
    ]
    known = [instant for instant in instants if instant is not None]
    assert known == sorted(known), "requested, acknowledged, observed, finished"
    # What came earlier belongs to other attempts, perhaps by hosts whose clocks differ.
    requeued_at = max((e.seq for e in log if _is_requeue(e)), default=0)
    # A shutdown says so in the log. It may come before the stop request is delivered.
    logged = [
        e.seq for e in log if e.type == "log" and e.source == "system" and e.seq > requeued_at
    ]
    if record.stop_observed_at is not None:
        assert record.stop_acknowledged_at is not None
        assert record.status == Status.STOPPED
        # Observations of earlier attempts belong to the shutdowns that ended those attempts.
        [observed] = [e for e in observations if e.seq > requeued_at]
        of_a_shutdown = any(seq < observed.seq for seq in logged)
        assert of_a_shutdown or requests[0].seq < observed.seq, "observed before it was logged"
    elif record.status == Status.STOPPED:
        was_lost = record.worker is not None and record.worker.lost_at is not None
        # A claim whose answer is lost is that of an orphaned run: no code begins under it.
        has_begun = any(e.type == "agent_start" and e.seq > requeued_at for e in log)
        # The agent had left in a shutdown, perhaps without observing it, and its ending was
        # deferred until its children were over: the stop came meanwhile.
        was_leaving = any(seq < requests[0].seq for seq in logged)
        without = was_lost or record.stop_abandoned or not has_begun or was_leaving
        assert without, "stopped, but no agent observed the stop"
    if log[-1].data["started"] and record.status in TERMINAL:
        assert log[-1].data["finished_first"] == record.stop_finished_first
    if record.stop_acknowledged_at is not None:
        for event in log:
            is_call = event.type in CALLS and event.seq > requeued_at
            if is_call and not event.data.get("cleanup"):
                started = datetime.fromisoformat(event.data["started_at"])
                # The wall clock is read for one instant after the other.
                late = (started - record.stop_acknowledged_at).total_seconds()
                assert late < 0.02, f"a call started {late} s after the acknowledgement"


def _check_requests(record: RunRecord, requests: list[RunEvent]) -> None:
    """Each mode that the stop came to is in the log once; the last one is the record's."""
    modes = [StopMode(event.data["mode"]) for event in requests]
    assert modes, "the log has no stop request"
    assert modes == sorted(set(modes), key=lambda mode: mode.rank), "a stop became softer"
    assert modes[-1] == record.stop_mode
    assert (len(modes) > 1) == (record.stop_escalated_at is not None)
    by = record.stop_requested_by
    for event in requests:
        escalated = {"escalated_by", "escalated_at", "planned"} & event.data.keys()
        assert len(escalated) == (0 if event is requests[0] else 3)
        assert {name: event.data[name] for name in event.data.keys() - escalated} == {
            "mode": event.data["mode"],
            "reason": record.stop_reason,
            "via": record.stop_via,
            "requested_by": by.get_username() if by else None,
            "requested_at": event.data["requested_at"],
            "root_request": str(record.stop_root_request),
            **({"limit": record.stop_limit} if record.stop_limit else {}),
        }
        assert datetime.fromisoformat(event.data["requested_at"]) == record.stop_requested_at
    if record.stop_escalated_at is not None:
        last = requests[-1].data
        assert datetime.fromisoformat(last["escalated_at"]) == record.stop_escalated_at
        assert last["escalated_by"] == (record.stop_escalated_by_name or None)
        assert not (last["planned"] and last["escalated_by"])


def _check_abandoned(record: RunRecord, log: list[RunEvent]) -> None:
    was_running = log[-1].data["started"]
    assert record.stop_abandoned == (
        was_running and record.stop_mode == StopMode.ABANDON and record.status == Status.STOPPED
    )
    assert log[-1].data.get("abandoned", False) == record.stop_abandoned
    assert bool(record.stop_left_behind) == record.stop_abandoned
    for one in record.stop_left_behind or []:
        assert set(one) == {"kind", "label", "since", "ended_at"}


def _is_requeue(event: RunEvent) -> bool:
    return event.type == "log" and str(event.data.get("message", "")).startswith("requeued")


def _check_usage(record: RunRecord, log: list[RunEvent]) -> None:
    if any(e.type == "truncated" for e in log):
        return
    calls = [e.data for e in log if e.type == "llm_call" and "input_tokens" in e.data]
    assert record.llm_calls == len(calls)
    assert record.input_tokens == sum(call["input_tokens"] for call in calls)
    assert record.output_tokens == sum(call["output_tokens"] for call in calls)


def _check_tree(record: RunRecord, log: list[RunEvent]) -> None:
    if record.parent is None:
        assert (record.root_id, record.depth) == (record.pk, 0)
    children = list(record.children.all())
    logged = {e.data["run"] for e in log if e.type == "agent_call" and "run" in e.data}
    assert logged <= {str(child.pk) for child in children}
    for child in children:
        assert child.finished_at is not None, "a child has not ended"
        assert (child.root_id, child.depth) == (record.root_id, record.depth + 1)
        assert child.owner_id == record.owner_id
        if record.stop_requested and child.stop_via == "parent" and not _has_own_stop(child):
            assert child.stop_reason == record.stop_reason
            assert child.stop_requested_by_id == record.stop_requested_by_id
            assert child.stop_root_request == (
                record.stop_root_request if record.stop_via == "parent" else record.pk
            )


def _ended_last(record: RunRecord) -> bool:
    return all(child.finished_at <= record.finished_at for child in record.children.all())


def _has_own_stop(child: RunRecord) -> bool:
    return child.stop_root_request == child.pk
