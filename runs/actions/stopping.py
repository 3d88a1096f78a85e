"""Ask runs to stop. One path: for one run, many, a tree, the admin, a parent, a repeated request.

1. ``authorize_stop`` decides whether a person may stop a run.
2. ``_write`` writes the request into the runs that have none, into all runs below them, and into
   the audit log. It ends the queued ones among these runs.
3. After the commit ``delivery.stops.deliver`` trips the tokens of this process's runs, and sends a
   message to the workers of the others.

A stop and the start of a child lock the parent's row; a stop and an ending lock the run's own row.
So the second of the two sees what the first one wrote.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from agents.cancellation import StopMode
from agents.values.jsonable import clean_text
from runs.db.query_plans import by_key
from runs.db.statements import (
    Expression,
    Insertion,
    as_parameter,
    update_and_read,
    update_rows,
)
from runs.db.transactions import in_transaction
from runs.delivery import notify, stops
from runs.delivery.stop_message import StopDelivery
from runs.exceptions import ModeNotAvailable, RunAlreadyFinished, StopNotPermitted
from runs.models import MAX_REASON_LENGTH, RunRecord, StopVia
from runs.status import ACTIVE, Status
from runs.wire import BulkWord, get_for_list, get_for_wire

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
    "stop_at_limit",
    "stop_children",
    "stop_many",
    "stop_runs_of_inactive",
]

#: The modes that exist so far. Token, guard and record know the others, too.
AVAILABLE_MODES = (StopMode.GRACEFUL,)

Accepted = Literal["accepted", "already_stopping"]

_CHUNK = 500  # runs in a transaction: parameters are limited, and other writers wait for locks


@dataclass(frozen=True, slots=True)
class StopResult:
    """The outcome of a request to stop one run."""

    run: RunRecord
    outcome: Accepted


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """The outcome of a request to stop many runs, for one of them."""

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
    """Ask a run, and all runs below it, to stop; return after the commit.

    When this returns, a queued run is ``stopped`` and the token of a run in this process is
    tripped. The worker of another process gets a message; it also polls within a second. A second
    request changes neither requester nor reason.

    Raises:
        RunRecord.DoesNotExist: there is no such run, or ``by`` may not see it.
        StopNotPermitted: ``by`` may see the run, but not stop it. With ``check_permission`` False
            no permission is checked.
        RunAlreadyFinished: the run is over.
        ModeNotAvailable: that mode does not exist yet.
        ValueError: no such mode, or the reason is too long.
    """
    request = _Request.new(mode, reason, via, by)

    def write() -> Accepted | None:
        written = _write(request, [run])
        if check_permission:  # after the write, which read the owner: a refusal rolls it back
            authorize_stop(written.get(run) or RunRecord.objects.only("owner").get(pk=run), by)
        if run not in written:
            return None
        return "accepted" if written[run] else "already_stopping"

    outcome = in_transaction(write)
    if outcome is None:
        raise RunAlreadyFinished(get_for_list(run))
    return StopResult(get_for_wire(run), outcome)


def stop_many(
    ids: Iterable[uuid.UUID],
    *,
    by: User,
    via: StopVia,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
) -> list[BulkOutcome]:
    """Ask many runs to stop; return one outcome for each, in the order given, without repeats.

    A run that ``by`` may not see is ``not_found``. A run below another one that was asked to stop
    is ``already_stopping``.
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

    The recovery ends the children of lost workers. The worker ``but_on`` shuts down and ends its
    own. Repeat the call until it returns 0: both may queue a run again.
    """
    request = _Request.new(StopMode.GRACEFUL, reason, StopVia.PARENT, None)
    held = Q(worker__isnull=False, worker__lost_at=None) & ~Q(worker=but_on)
    elsewhere = Q(status=Status.QUEUED) | held
    children = RunRecord.objects.active().filter(elsewhere, parent=run, stop_requested_at=None)
    ids = list(children.values_list("pk", flat=True))
    for start in range(0, len(ids), _CHUNK):
        in_transaction(partial(_write, request, ids[start : start + _CHUNK]))
    return len(ids)


def stop_runs_of_inactive(
    owner: Any = None, *, by: User | None = None, via: StopVia = StopVia.ACCOUNT
) -> int:
    """Ask the active runs of users who are deactivated to stop; return how many were asked.

    ``owner`` is the key of one of these users; by default it is for all of them. ``by`` is who
    deactivated them, if that is known.
    """
    runs = RunRecord.objects.active().filter(owner__is_active=False, stop_requested_at=None)
    if owner is not None:
        runs = runs.filter(owner=owner)
    # The runs below stop with them, and say so.
    tops = runs.exclude(parent__status__in=ACTIVE, parent__stop_requested_at=None)
    ids = list(tops.values_list("pk", flat=True))
    request = _Request.new(StopMode.GRACEFUL, "the owner's account was deactivated", via, by)
    for start in range(0, len(ids), _CHUNK):
        in_transaction(partial(_write, request, ids[start:][:_CHUNK]))
    return len(ids)


def stop_at_limit(reached: Mapping[uuid.UUID, Mapping[str, Any]], reason: str) -> None:
    """Ask runs to stop that have reached a limit, which ``reached`` has by run.

    In the caller's transaction, which has locked the runs and read that they were not asked before.
    """
    if not reached:
        return
    rows = [({"stop_limit": limit}, [as_parameter(id)]) for id, limit in reached.items()]
    update_rows(RunRecord, "id = %s", rows)
    _write(_Request.new(StopMode.GRACEFUL, reason, StopVia.BUDGET, None), list(reached))


def authorize_stop(record: RunRecord, by: User | None) -> None:
    """Check that ``by`` may stop a run.

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
        reason = clean_text(reason)  # an agent, or a terminal, may give any
        if len(reason) > MAX_REASON_LENGTH:
            raise ValueError(
                f"a reason has at most {MAX_REASON_LENGTH} characters, not {len(reason)}"
            )
        return cls(mode, reason, via, by, timezone.now())


def _write(request: _Request, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, RunRecord | None]:
    """Write ``request`` into active runs and all active runs below them; deliver it on commit.

    In the caller's transaction. Returns the active runs among ``ids``: each with its record as
    written, or None if a stop had been requested before.
    """
    # A parent's stop is no act of its own.
    is_act = request.via != StopVia.PARENT
    told = (request.by, request.via, request.mode, request.reason)
    entries = audit.stop_entries(*told) if is_act else ()
    fresh = _mark(request, "id", ids, request.via, Expression("id"), entries)
    written: dict[uuid.UUID, RunRecord | None] = {record.pk: record for record in fresh}
    others = [id for id in ids if id not in written]
    again = list(RunRecord.objects.active().only("root").filter(pk__in=others)) if others else []
    written |= dict.fromkeys(record.pk for record in again)

    marked = list(fresh)
    callers = [record.pk for record in fresh if record.has_children]
    trees = {record.root_id for record in marked if record.has_children}
    while callers:
        # The callers are locked, so they get no more children: one query a level is enough.
        below = _mark(request, "parent_id", callers, StopVia.PARENT, _OF_PARENT)
        marked += below
        callers = [record.pk for record in below if record.has_children]

    # The process that wrote an earlier request may have died before it delivered it.
    trees |= {record.root_id for record in again}
    due = [*fresh, *(stops.committed_in(trees) if trees else ())]
    deliveries = {record.pk: StopDelivery.of(record) for record in due}
    transaction.on_commit(lambda: stops.deliver(deliveries.values()), robust=True)
    if queued := [record for record in marked if record.status == Status.QUEUED]:
        finish([finish_queued(record) for record in queued])
    changed = [(record.pk, record.root_id) for record in marked]
    transaction.on_commit(lambda: notify.publish_changes(changed), robust=True)
    return written


#: A run below names the same run as its caller: the one on which the stop was requested.
_OF_PARENT = Expression(
    "(SELECT stop_root_request FROM runs_runrecord above WHERE above.id = runs_runrecord.parent_id)"
)
_READ = (
    *("agent", "attempt", "created_at", "depth", "has_children", "last_seq", "owner", "root"),
    *("started_at", "status", "worker"),
    *("stop_acknowledged_at", "stop_mode", "stop_observed_at", "stop_reason", "stop_requested_at"),
    *("stop_requested_by", "stop_requested_by_name", "stop_root_request", "stop_via"),
    "stop_limit",
)
_IS_DUE = "status IN ('queued', 'running') AND stop_requested_at IS NULL"
_ONE = by_key(_IS_DUE)
# Callers are locked before called runs: two stops in one tree must not wait for each other.
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
    entries: Sequence[Insertion] = (),
) -> list[RunRecord]:
    """Write the request into the active runs of ``keys`` that have none; lock and return these.

    Each of them gets ``entries`` in the logs, on PostgreSQL by the same statement: every statement
    makes a stop slower.
    """
    if not keys:
        return []
    is_one = column == "id" and len(keys) == 1  # needs no order, and is found faster
    values = {
        "stop_requested_at": request.at,
        "stop_mode": request.mode,
        "stop_reason": request.reason,
        "stop_via": via,
        "stop_requested_by": request.by.pk if request.by is not None else None,
        "stop_requested_by_name": request.by.get_username() if request.by is not None else "",
        "stop_root_request": root_request,
    }
    condition = _ONE if is_one else _some(column, len(keys))
    marked = update_and_read(RunRecord, condition, values, keys, _READ, insertions=entries)
    for record in marked:
        record.stop_requested_by = request.by  # saves the query that reading it would make
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
