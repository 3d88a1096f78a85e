"""Ask runs to stop. One path: for one run, many, a tree, the admin, a parent, a repeated request.

1. ``authorize_stop`` decides whether a person may stop a run.
2. ``_write`` writes the request into the runs that have none, into all runs below them, and into
   the audit log. A queued run is over with that.
3. After the commit ``delivery.stops.deliver`` trips the tokens of this process's runs, and sends a
   message to the workers of the others.

A stop and the birth of a child meet at the parent's row, a stop and an ending at the run's own row:
each sees the other or comes first.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from agents.cancellation import StopMode
from runs.db.query_plans import by_key
from runs.db.statements import Expression, Insertion, update_and_read
from runs.db.transactions import in_transaction
from runs.delivery import notify, stops
from runs.delivery.stop_message import StopDelivery
from runs.exceptions import ModeNotAvailable, RunAlreadyFinished, StopNotPermitted
from runs.models import MAX_REASON_LENGTH, RunRecord, StopVia
from runs.status import Status
from runs.wire import BulkWord, get_for_wire

from . import audit
from .finishing import finish, finish_queued

if TYPE_CHECKING:
    from datetime import datetime

    from django.contrib.auth.models import User

__all__ = [
    "AVAILABLE_MODES",
    "BulkOutcome",
    "StopResult",
    "authorize_stop",
    "request_stop",
    "stop_children",
    "stop_many",
]

#: The rungs that exist so far. The others have their place in token, guard and record.
AVAILABLE_MODES = (StopMode.GRACEFUL,)

Accepted = Literal["accepted", "already_stopping"]

_CHUNK = 500  # runs in a transaction: databases bound parameters, and others want to write, too


@dataclass(frozen=True, slots=True)
class StopResult:
    """What came of asking one run to stop."""

    run: RunRecord
    outcome: Accepted


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """What came of asking one of many runs to stop."""

    id: str
    outcome: BulkWord


def request_stop(
    run: uuid.UUID,
    *,
    via: StopVia,
    by: User | None = None,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
    check_permission: bool = True,
) -> StopResult:
    """Ask a run, and all below it, to stop; return once that is committed.

    A queued run is ``stopped`` when this returns. The token of a run in this process is tripped
    when this returns; the worker of another process is sent a message, and polls within a second.
    A second request changes neither requester nor reason.

    Raises:
        RunRecord.DoesNotExist: there is no such run, or ``by`` may not see it.
        StopNotPermitted: ``by`` may see the run, but not stop it. Neither of these two is asked
            with ``check_permission`` False.
        RunAlreadyFinished: the run is over.
        ModeNotAvailable: that rung does not exist yet.
        ValueError: no such mode, or the reason is too long.
    """
    request = _Request.new(mode, reason, via, by)

    def write() -> Accepted | None:
        written = _write(request, [run])
        if check_permission:  # now, not before: most stops are of one's own runs
            authorize_stop(written.get(run) or RunRecord.objects.only("owner").get(pk=run), by)
        if run not in written:
            return None
        return "accepted" if written[run] else "already_stopping"

    outcome = in_transaction(write)
    record = get_for_wire(run)
    if outcome is None:
        raise RunAlreadyFinished(record)
    return StopResult(record, outcome)


def stop_many(
    ids: Iterable[uuid.UUID],
    *,
    by: User,
    via: StopVia,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
) -> list[BulkOutcome]:
    """Ask many runs to stop; one outcome each, in the order given, repeats answered once.

    A run that ``by`` may not see is ``not_found``. Runs below others that are being stopped read
    ``already_stopping``.
    """
    request = _Request.new(mode, reason, via, by)
    wanted = list(dict.fromkeys(ids))
    outcomes: dict[uuid.UUID, BulkWord] = dict.fromkeys(wanted, "not_found")
    for start in range(0, len(wanted), _CHUNK):
        permitted = []
        some = RunRecord.objects.only("owner", "status").filter(pk__in=wanted[start:][:_CHUNK])
        for record in some:
            try:
                authorize_stop(record, by)
            except RunRecord.DoesNotExist:
                continue
            except StopNotPermitted:
                outcomes[record.pk] = "already_finished" if record.is_terminal else "not_permitted"
            else:
                outcomes[record.pk] = "already_finished"
                permitted.append(record.pk)
        written = in_transaction(partial(_write, request, permitted))
        for id, marked in written.items():
            outcomes[id] = "already_stopping" if marked is None else "accepted"
    return [BulkOutcome(str(id), outcome) for id, outcome in outcomes.items()]


def stop_children(run: uuid.UUID, *, reason: str, but_on: uuid.UUID | None = None) -> int:
    """Ask the active children of a run to stop on its behalf; return how many were asked.

    The children of lost workers are left to the recovery. Those ``but_on`` a worker that shuts down
    are being ended there. To be repeated: either may queue a run again.
    """
    request = _Request.new(StopMode.GRACEFUL, reason, StopVia.PARENT, None)
    held = Q(worker__isnull=False, worker__lost_at=None) & ~Q(worker=but_on)
    elsewhere = Q(status=Status.QUEUED) | held
    children = RunRecord.objects.active().filter(elsewhere, parent=run, stop_requested_at=None)
    ids = list(children.values_list("pk", flat=True))
    for start in range(0, len(ids), _CHUNK):
        in_transaction(partial(_write, request, ids[start : start + _CHUNK]))
    return len(ids)


def authorize_stop(record: RunRecord, by: User | None) -> None:
    """Let ``by`` stop a run.

    Raises:
        RunRecord.DoesNotExist: ``by`` may not see the run.
        StopNotPermitted: ``by`` may see it, but not stop it.
    """
    if by is not None and not record.may_be_seen_by(by):
        raise RunRecord.DoesNotExist
    if by is None or not record.may_be_stopped_by(by):
        raise StopNotPermitted("You may see this run, but not stop it.")


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked request, the same for all runs that it is written into."""

    mode: StopMode
    reason: str
    via: StopVia
    by: User | None
    at: datetime

    @classmethod
    def new(cls, mode: StopMode | str, reason: str, via: StopVia, by: User | None) -> _Request:
        mode = StopMode(mode)
        if mode not in AVAILABLE_MODES:
            raise ModeNotAvailable(f"Stopping by {mode} is not available yet; use graceful.")
        if len(reason) > MAX_REASON_LENGTH:
            raise ValueError(
                f"a reason has at most {MAX_REASON_LENGTH} characters, not {len(reason)}"
            )
        return cls(mode, reason, via, by, timezone.now())


def _write(request: _Request, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, RunRecord | None]:
    """Write ``request`` into active runs and all active runs below them; deliver it on commit.

    Within the caller's transaction. Returns those of ``ids`` that are active: each with its record
    as it was marked, or None if a stop had been requested before.
    """
    entry = audit.stop_entry(request.by, request.via, request.mode, request.reason)
    fresh = _mark(request, "id", ids, request.via, Expression("id"), entry)
    written: dict[uuid.UUID, RunRecord | None] = {record.pk: record for record in fresh}
    others = [id for id in ids if id not in written]
    again = list(RunRecord.objects.active().only("root").filter(pk__in=others)) if others else []
    written |= dict.fromkeys(record.pk for record in again)

    marked = list(fresh)
    callers = [record.pk for record in fresh if record.has_children]
    trees = {record.root_id for record in marked if record.has_children}
    while callers:
        # The callers are locked: no child is born below them any more, so one level is enough.
        below = _mark(request, "parent_id", callers, StopVia.PARENT, _OF_PARENT)
        marked += below
        callers = [record.pk for record in below if record.has_children]

    # A process that asked before may not have come to deliver its request.
    trees |= {record.root_id for record in again}
    due = [*fresh, *(stops.committed_in(trees) if trees else ())]
    deliveries = {record.pk: StopDelivery.of(record) for record in due}
    transaction.on_commit(lambda: stops.deliver(deliveries.values()), robust=True)
    finish([finish_queued(record) for record in marked if record.status == Status.QUEUED])
    changed = [(record.pk, record.root_id) for record in marked]
    transaction.on_commit(lambda: notify.publish_changes(changed), robust=True)
    return written


#: The run on which a stop was asked is, for a called run, the one of its caller.
_OF_PARENT = Expression(
    "(SELECT stop_root_request FROM runs_runrecord above WHERE above.id = runs_runrecord.parent_id)"
)
_READ = (
    *("agent", "attempt", "created_at", "depth", "has_children", "last_seq", "owner", "root"),
    *("status", "worker"),
    *("stop_mode", "stop_reason", "stop_requested_at", "stop_root_request", "stop_via"),
    "stop_requested_by",
)
_IS_DUE = "status IN ('queued', 'running') AND stop_requested_at IS NULL"
_ONE = by_key(_IS_DUE)
# All lock callers before called: stops that cross in one tree must not wait for each other.
# CASE: see by_key. MATERIALIZED and ARRAY: see transitions.
_SOME = """id {among} (
    WITH due AS {materialized} (
        SELECT id FROM runs_runrecord
        WHERE {column} IN ({places}) AND CASE WHEN {is_due} THEN 1 END = 1
        ORDER BY depth, id {lock}
    ) SELECT id FROM due
){close}"""


def _mark(
    request: _Request,
    column: Literal["id", "parent_id"],
    keys: Collection[uuid.UUID],
    via: StopVia,
    root_request: Expression,
    entry: Insertion | None = None,
) -> list[RunRecord]:
    """Write the request into the active runs of ``keys`` that have none; return and lock these.

    With ``entry`` each of them gets one in the audit log, by the same statement where the database
    can do that: a stop waits for each of its statements.
    """
    if not keys:
        return []
    is_one = column == "id" and len(keys) == 1  # one row has no order, and is found faster
    values = {
        "stop_requested_at": request.at,
        "stop_mode": request.mode,
        "stop_reason": request.reason,
        "stop_via": via,
        "stop_requested_by": request.by.pk if request.by is not None else None,
        "stop_root_request": root_request,
    }
    condition = _ONE if is_one else _some(column, len(keys))
    marked = update_and_read(RunRecord, condition, values, keys, _READ, insertion=entry)
    for record in marked:
        record.stop_requested_by = request.by  # spares the query that reading it would take
    return marked


def _some(column: str, count: int) -> str:
    is_postgres = connection.vendor == "postgresql"
    return _SOME.format(
        among="= ANY(ARRAY" if is_postgres else "IN",
        materialized="MATERIALIZED" if is_postgres else "",
        column=column,
        places=", ".join(["%s"] * count),
        is_due=_IS_DUE,
        lock="FOR NO KEY UPDATE" if is_postgres else "",
        close=")" if is_postgres else "",
    )
