"""The shape of a run on the wire: one typed definition for every door.

The API's serializers, and with them OpenAPI, are made from these shapes. ``run_as_dict`` is a plain
function because lists and feeds write many runs: DRF would copy thirty field objects for each.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict, get_args

from django.db.models import QuerySet

from agents.cancellation import StopMode
from agents.options import HIGHEST_PRIORITY, LOWEST_PRIORITY
from agents.wire import CallOnWire, Count, ErrorInfo, Form, Instant, Uuid
from runs.db.alias import connection

from .db.statements import as_parameter, read_by_key
from .models import MAX_REASON_LENGTH, RunInput, RunRecord, StopVia, WorkerRecord
from .status import SHOWN

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "BULK_WORDS",
    "LARGE",
    "NOTHING_LARGE",
    "RESULTS",
    "BulkWord",
    "CleanupError",
    "LeftBehindOnWire",
    "LimitOnWire",
    "LimitsOnWire",
    "OutcomeOnWire",
    "ReceiptOnWire",
    "RunOnWire",
    "UnwatchedOnWire",
    "Usage",
    "for_wire",
    "get_for_list",
    "get_for_wire",
    "limits_of",
    "read_tree_usage",
    "run_as_dict",
    "tree_usage_of",
    "unwatched_of",
    "usage_of",
]


#: What came of asking one of many runs to stop.
BulkWord = Literal["accepted", "already_stopping", "already_finished", "not_permitted", "not_found"]
BULK_WORDS: tuple[BulkWord, ...] = get_args(BulkWord)

#: The fields of a run that may have megabytes. Lists leave them out.
RESULTS = ("result", "partial_result")
LARGE = ("input", *RESULTS)
NOTHING_LARGE: tuple[str, ...] = ()


class CleanupError(TypedDict):
    """What went wrong in the agent's code after the stop was observed."""

    type: str
    message: str


class Usage(TypedDict):
    """What a run has used of its models so far."""

    llm_calls: Count
    input_tokens: Count
    output_tokens: Count
    estimated: Annotated[bool, "Some of it was not reported by the model."]


class LimitsOnWire(TypedDict):
    """How long a run may take, in seconds. Null is no limit."""

    deadline_seconds: Annotated[float | None, "From its first start on."]
    idle_seconds: Annotated[float | None, "Without a sign of life."]
    call_seconds: Annotated[float | None, "In one call."]
    deadline_at: Annotated[
        Instant | None,
        "When it is asked to stop: its own deadline, or an earlier one of its caller.",
    ]


class LeftBehindOnWire(TypedDict):
    """Code that was still running when its run was abandoned."""

    kind: Annotated[str, "The tool of a call; `thread`, `task`, `process`, or `code` of the agent."]
    label: str
    since: Instant
    ended_at: Annotated[Instant | None, "Null: it may still be running."]


class LimitOnWire(TypedDict):
    """The limit that was reached, of a stop via `budget`."""

    kind: str
    scope: str
    limit: Annotated[float | None, "What was allowed."]
    value: Annotated[float | None, "What it had come to."]
    evidence: Annotated[list[int], "The numbers of the events that show it."]


class UnwatchedOnWire(TypedDict):
    """What the run's code has started, and nothing can wait for; and what no guard saw."""

    threads: Count
    processes: Count
    connections: Count


class ReceiptOnWire(TypedDict):
    """The stop receipt."""

    mode: Annotated[str, Form(choices=tuple(map(str, StopMode)))]
    reason: Annotated[str, Form(max_length=MAX_REASON_LENGTH)]
    via: Annotated[str, Form(choices=tuple(StopVia.values)), "The door that it came through."]
    requested_by: Annotated[str | None, "A username; kept when the user is deleted."]
    requested_at: Instant
    escalated_by: Annotated[str | None, "A username; null if the stop was planned to escalate."]
    escalated_at: Annotated[Instant | None, "When the stop last became harder."]
    acknowledged_at: Annotated[
        Instant | None, "When the worker that owns the run tripped its token."
    ]
    observed_at: Annotated[Instant | None, "When the agent's code first observed the stop."]
    abort_at: Annotated[Instant | None, "When the stop is to become `abort` by itself."]
    abandon_at: Annotated[Instant | None, "When the stop is to become `abandon` by itself."]
    finished_first: Annotated[bool, "The run had ended before it observed the stop."]
    calls_started_after_acknowledgement: Count
    calls_cut: Annotated[Count, "The calls in flight that `abort` has cut."]
    root_request: Annotated[Uuid, "The run on which the stop was requested."]
    abandoned: Annotated[bool, "The run has ended, its code may not have."]
    left_behind: list[LeftBehindOnWire]
    limit: LimitOnWire | None
    cleanup_error: CleanupError | None


class RunOnWire(TypedDict):
    """A run, with its stop receipt once a stop was requested."""

    id: Uuid
    agent: str
    input: NotRequired[dict[str, Any]]  # here and below: lists leave out what is in LARGE
    status: Annotated[str, Form(choices=tuple(map(str, SHOWN)))]
    result: NotRequired[Annotated[Any | None, "What the agent returned."]]
    partial_result: NotRequired[
        Annotated[Any | None, "What there was when the run was stopped or failed."]
    ]
    error: ErrorInfo | None
    owner: Annotated[str, "A username."]
    parent: Uuid | None
    root: Annotated[Uuid, "Its own id if nothing called it."]
    priority: Annotated[
        int,
        Form(min_value=LOWEST_PRIORITY, max_value=HIGHEST_PRIORITY),
        "The queued runs of the highest priority start first.",
    ]
    attempt: Annotated[Count, "0 until a worker has claimed it."]
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    in_flight: list[CallOnWire]
    usage: Usage
    usage_tree: Annotated[Usage, "The same of the run and all runs below it together."]
    last_seq: Annotated[Count, "The number of its last event."]
    log_removed_at: Annotated[
        Instant | None, "Since then its events are gone; it had `last_seq` of them."
    ]
    worker: Annotated[str | None, "The name of the worker that has it."]
    limits: LimitsOnWire
    unwatched: UnwatchedOnWire
    stop: ReceiptOnWire | None


class OutcomeOnWire(TypedDict):  # no docstring: it would enter the OpenAPI document
    id: Uuid
    outcome: BulkWord


class _Input(TypedDict, total=False):
    input: dict[str, Any]


class _Results(TypedDict, total=False):
    result: Any
    partial_result: Any


_PEOPLE = ("owner", "worker", "stop_requested_by", "stop_escalated_by")


def for_wire(runs: QuerySet[RunRecord], large: Collection[str] = LARGE) -> QuerySet[RunRecord]:
    """Make a query read what ``run_as_dict`` needs, of the large fields only ``large``.

    Without it each run costs five more queries.
    """
    joined = ("input_record",) if "input" in large else ()
    left_out = [name for name in RESULTS if name not in large]
    return runs.select_related(*_PEOPLE, *joined).defer(*left_out)


def get_for_wire(id: uuid.UUID, known: User | None = None) -> RunRecord:
    """Read a run for the wire, as it is now.

    By constant statements, which together take less time than the ORM takes to compose one. A user
    who is ``known``, or is both owner and requester of the stop, is not read.

    Raises:
        RunRecord.DoesNotExist: there is no such run.
    """
    runs = read_by_key(RunRecord, "id", [id])
    inputs = read_by_key(RunInput, "run_id", [id]) if runs else []
    if not inputs:  # or it was deleted meanwhile
        raise RunRecord.DoesNotExist
    [run], [run.input_record] = runs, inputs
    if run.worker_id is not None:
        run.worker = next(iter(read_by_key(WorkerRecord, "id", [run.worker_id])), None)
    if known is not None and known.pk == run.owner_id:
        run.owner = known
    if run.stop_requested_by_id == run.owner_id:
        run.stop_requested_by = run.owner
    return run


def get_for_list(id: uuid.UUID) -> RunRecord:
    """Read a run, as it is now, without the large fields.

    Raises:
        RunRecord.DoesNotExist: there is no such run.
    """
    return for_wire(RunRecord.objects.all(), NOTHING_LARGE).get(pk=id)


def run_as_dict(run: RunRecord, large: Collection[str] = LARGE) -> RunOnWire:
    """Return the run as it goes over the wire, of the large fields only ``large``."""
    given: _Input = {"input": run.input_record.value} if "input" in large else {}
    results: _Results = {}
    if "result" in large:
        results["result"] = run.result
    if "partial_result" in large:
        results["partial_result"] = run.partial_result
    return {
        "id": str(run.pk),
        "agent": run.agent,
        **given,
        "status": str(run.shown_status),
        **results,
        "error": run.error,
        "owner": run.owner.get_username(),
        "parent": str(run.parent_id) if run.parent_id else None,
        "root": str(run.root_id),
        "priority": run.priority,
        "attempt": run.attempt,
        "created_at": _instant(run.created_at),
        "started_at": _if_known(run.started_at),
        "finished_at": _if_known(run.finished_at),
        "in_flight": run.in_flight,
        "usage": usage_of(run),
        "usage_tree": tree_usage_of(run),
        "last_seq": run.last_seq,
        "log_removed_at": _if_known(run.log_removed_at),
        "worker": run.worker.name if run.worker else None,
        "limits": limits_of(run),
        "unwatched": unwatched_of(run),
        "stop": _receipt(run),
    }


def unwatched_of(run: RunRecord) -> UnwatchedOnWire:
    return {
        "threads": run.unwatched_threads,
        "processes": run.unwatched_processes,
        "connections": run.unwatched_connections,
    }


def usage_of(run: RunRecord) -> Usage:
    return {
        "llm_calls": run.llm_calls,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "estimated": run.usage_estimated,
    }


def limits_of(run: RunRecord) -> LimitsOnWire:
    return {
        "deadline_seconds": run.deadline_seconds,
        "idle_seconds": run.idle_seconds,
        "call_seconds": run.call_seconds,
        "deadline_at": _if_known(run.deadline_at),
    }


def tree_usage_of(run: RunRecord) -> Usage:
    """Return what a run and all below it have used; of a run with children this may be a query."""
    if not run.has_children:
        return usage_of(run)
    if run.tree_usage is None:
        read_tree_usage([run])
    usage: Usage = run.tree_usage or usage_of(run)  # those below it were deleted meanwhile
    return usage


def read_tree_usage(runs: Iterable[RunRecord]) -> None:
    """Read what the trees below many runs have used, in two queries at most.

    Runs without children need none, and most runs have none. What a run itself has used is taken
    from its record: the queries come later than the record, and would count more than it has.
    """
    callers = {run.pk: run for run in runs if run.has_children}
    roots = [id for id, run in callers.items() if run.parent_id is None]
    inner = [id for id, run in callers.items() if run.parent_id is not None]
    for sql, ids in ((_BELOW_ROOTS, roots), (_BELOW, inner)):
        if ids:
            marks = ", ".join(["%s"] * len(ids))
            with connection.cursor() as cursor:
                cursor.execute(sql.format(ids=marks, sums=_SUMS), [as_parameter(id) for id in ids])
                rows = cursor.fetchall()
            for id, calls, input_tokens, output_tokens, estimated in rows:
                run = callers[id if isinstance(id, uuid.UUID) else uuid.UUID(id)]
                run.tree_usage = Usage(
                    llm_calls=run.llm_calls + int(calls),
                    input_tokens=run.input_tokens + int(input_tokens),
                    output_tokens=run.output_tokens + int(output_tokens),
                    estimated=run.usage_estimated or bool(estimated),
                )


_SUMS = """SUM(llm_calls), SUM(input_tokens), SUM(output_tokens),
MAX(CASE WHEN usage_estimated THEN 1 ELSE 0 END) FROM runs_runrecord"""
_BELOW_ROOTS = "SELECT root_id, {sums} WHERE root_id IN ({ids}) AND id <> root_id GROUP BY root_id"
_BELOW = """
WITH RECURSIVE below (top, run) AS (
    SELECT parent_id, id FROM runs_runrecord WHERE parent_id IN ({ids})
    UNION ALL
    SELECT below.top, one.id FROM below JOIN runs_runrecord AS one ON one.parent_id = below.run
)
SELECT top, {sums} JOIN below ON below.run = id GROUP BY top
"""


def _receipt(run: RunRecord) -> ReceiptOnWire | None:
    if run.stop_requested_at is None:
        return None
    return {
        "mode": run.stop_mode,
        "reason": run.stop_reason,
        "via": run.stop_via,
        "requested_by": run.stop_requester,
        "requested_at": _instant(run.stop_requested_at),
        "escalated_by": run.stop_escalator,
        "escalated_at": _if_known(run.stop_escalated_at),
        "acknowledged_at": _if_known(run.stop_acknowledged_at),
        "observed_at": _if_known(run.stop_observed_at),
        "abort_at": _if_known(run.stop_abort_at),
        "abandon_at": _if_known(run.stop_abandon_at),
        "finished_first": run.stop_finished_first,
        "calls_started_after_acknowledgement": run.stop_calls_started_after_acknowledgement,
        "calls_cut": run.stop_calls_cut,
        "root_request": str(run.stop_root_request or run.pk),
        "abandoned": run.stop_abandoned,
        "left_behind": run.stop_left_behind or [],
        "limit": run.stop_limit,
        "cleanup_error": run.stop_cleanup_error,
    }


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


def _if_known(at: datetime | None) -> str | None:
    return None if at is None else _instant(at)
