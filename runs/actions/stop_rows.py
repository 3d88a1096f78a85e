"""Write a stop request into the rows of runs: the first one, a harder one, an earlier plan.

``mark`` writes a request into runs that have none. ``change`` makes the stops of the others harder,
or their plans earlier: never softer, never later. Both lock callers before called runs, so that two
stops in one tree do not wait for each other.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self

from django.db.models import Q, prefetch_related_objects
from django.utils import timezone

from agents.cancellation import StopMode
from agents.values.jsonable import clean_text
from runs.db.alias import connection
from runs.db.clock import database_now
from runs.db.query_plans import by_key
from runs.db.statements import Expression, Insertion, as_parameter, update_and_read
from runs.db.users import username_of
from runs.delivery.stop_message import StopRequest
from runs.models import MAX_REASON_LENGTH, RunRecord, StopVia

from .audit import stop_entries

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "LONGEST_PLAN_SECONDS",
    "PLANS",
    "SOFTER",
    "Changes",
    "Request",
    "change",
    "is_in_order",
    "mark",
]

LONGEST_PLAN_SECONDS = 365 * 24 * 60 * 60.0

#: The modes that each mode is harder than.
SOFTER = {mode: tuple(m for m in StopMode if m.rank < mode.rank) for mode in StopMode}

#: The field that has the instant of each planned mode.
PLANS = {StopMode.ABORT: "stop_abort_at", StopMode.ABANDON: "stop_abandon_at"}

Column = Literal["id", "parent_id"]


def is_in_order(abort_after: float | None, abandon_after: float | None) -> bool:
    """Tell whether a plan gives a run up no earlier than it cuts the run's calls."""
    return abort_after is None or abandon_after is None or abandon_after >= abort_after


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request, the same for all runs that it is written into.

    Attributes:
        plan: when the stop becomes harder by itself; without the modes that it has from the start.
        is_planned: this is such a moment, and no act of a person.
    """

    mode: StopMode
    reason: str
    via: StopVia
    by: User | None
    at: datetime
    plan: dict[StopMode, datetime] = field(default_factory=dict)
    is_planned: bool = False

    @classmethod
    def new(
        cls,
        mode: StopMode | str,
        reason: str,
        via: StopVia,
        by: User | None,
        abort_after: float | None = None,
        abandon_after: float | None = None,
    ) -> Self:
        """Check a request.

        Raises:
            ValueError: no such mode, the reason is too long, or the plan is no plan.
        """
        mode = StopMode(mode)
        reason = clean_text(reason)  # an agent, or a terminal, may give any
        if len(reason) > MAX_REASON_LENGTH:
            raise ValueError(
                f"a reason has at most {MAX_REASON_LENGTH} characters, not {len(reason)}"
            )
        after = {StopMode.ABORT: abort_after, StopMode.ABANDON: abandon_after}
        for rung, seconds in after.items():
            if seconds is not None and not 0 <= seconds <= LONGEST_PLAN_SECONDS:  # NaN is neither
                raise ValueError(
                    f"{rung}_after is from 0 to {LONGEST_PLAN_SECONDS:.0f} seconds, not {seconds}"
                )
        if not is_in_order(abort_after, abandon_after):
            raise ValueError("abandon_after is at least abort_after")
        due = {r: s for r, s in after.items() if s is not None and r.rank > mode.rank}
        # All processes compare a plan with the database's clock, so it is made by that one.
        at = database_now() if due else timezone.now()
        plan = {rung: at + timedelta(seconds=seconds) for rung, seconds in due.items()}
        return cls(mode, reason, via, by, at, plan)

    @classmethod
    def planned(cls, mode: StopMode, at: datetime) -> Self:
        """Return the request that an earlier one has planned for now."""
        return cls(mode, "", StopVia.PARENT, None, at, is_planned=True)

    def entries(self) -> tuple[Insertion, ...]:
        """Return the entries of the audit log for each run that the request names."""
        if self.via == StopVia.PARENT:
            return ()  # no act of its own, and neither is what was planned
        after = {rung: (at - self.at).total_seconds() for rung, at in self.plan.items()}
        return stop_entries(self.by, self.via, self.mode, self.reason, after)


_READ = (
    *("agent", "attempt", "created_at", "depth", "has_children", "last_seq", "owner", "parent"),
    *("root", "started_at", "status", "worker"),
    *("stop_acknowledged_at", "stop_mode", "stop_observed_at", "stop_reason", "stop_requested_at"),
    *("stop_requested_by", "stop_requested_by_name", "stop_root_request", "stop_via"),
    *("stop_abandon_at", "stop_abort_at", "stop_escalated_at", "stop_escalated_by_name"),
    "stop_limit",
)
#: Of a run that ends by the same transaction.
_READ_OF_ABANDONED = (
    *_READ,
    *("error", "in_flight", "partial_result", "result", "usage_estimated", "value_bytes"),
)


def _read(request: Request) -> tuple[str, ...]:
    return _READ_OF_ABANDONED if request.mode is StopMode.ABANDON else _READ


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


def mark(
    request: Request,
    column: Column,
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
        "stop_requested_by_name": username_of(request.by),
        "stop_root_request": root_request,
        **{PLANS[rung]: at for rung, at in request.plan.items()},
    }
    condition = _ONE if is_one else _some(column, len(keys))
    marked = update_and_read(RunRecord, condition, values, keys, _read(request), insertions=entries)
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


@dataclass(frozen=True, slots=True)
class Changes:
    """The runs whose earlier stop was changed, as they are now.

    Attributes:
        harder: those whose stop is harder now.
        earlier: those of which only the plan is earlier, or new.
        before: the requests of ``harder`` before the change.
    """

    harder: list[RunRecord] = field(default_factory=list)
    earlier: list[RunRecord] = field(default_factory=list)
    before: dict[uuid.UUID, StopRequest] = field(default_factory=dict)

    @property
    def all(self) -> list[RunRecord]:
        return [*self.harder, *self.earlier]

    def add(self, other: Changes) -> None:
        self.harder.extend(other.harder)
        self.earlier.extend(other.earlier)
        self.before.update(other.before)


def change(
    request: Request,
    column: Column,
    keys: Collection[uuid.UUID],
    entries: Sequence[Insertion] = (),
) -> Changes:
    """Make the stops of the active runs of ``keys`` as hard as the request, their plans as early.

    Locks and returns the runs that this changes; each of them gets ``entries``. Their requester,
    reason and time stay. A run whose stop is as hard already, with a plan as early, is left alone.
    """
    softer = SOFTER[request.mode]
    if not keys or not (softer or request.plan):
        return Changes()
    wanted = Q(stop_mode__in=softer)
    for rung, at in request.plan.items():
        is_later = Q(**{PLANS[rung]: None}) | Q(**{f"{PLANS[rung]}__gt": at})
        wanted |= Q(stop_mode__in=SOFTER[rung]) & is_later
    # What a plan does, each process does at the heart of its worker, which must not wait.
    nowait = request.is_planned and connection.features.has_select_for_update_nowait
    locked = list(
        RunRecord.objects.select_for_update(no_key=True, nowait=nowait)
        .active()
        .filter(wanted, **{f"{column}__in": keys}, stop_requested_at__isnull=False)
        .order_by("depth", "pk")
        .only(*_READ)
    )
    for record in locked:
        if request.by is not None and record.stop_requested_by_id == request.by.pk:
            record.stop_requested_by = request.by
    prefetch_related_objects(locked, "stop_requested_by")
    before = {record.pk: record for record in locked}
    harder = [record.pk for record in locked if record.stop_mode in softer]
    earlier = [record.pk for record in locked if record.stop_mode not in softer]
    plan = {PLANS[rung]: _earliest(PLANS[rung], at) for rung, at in request.plan.items()}
    escalation = {
        "stop_mode": request.mode,
        "stop_escalated_at": request.at,
        "stop_escalated_by": request.by.pk if request.by is not None else None,
        "stop_escalated_by_name": username_of(request.by),
    }
    changes = Changes(
        _update(request, harder, escalation | plan, entries),
        _update(request, earlier, plan, entries),
        {id: StopRequest.of(before[id]) for id in harder},
    )
    for record in changes.all:
        record.stop_requested_by = before[record.pk].stop_requested_by
    return changes


def _update(
    request: Request,
    ids: Sequence[uuid.UUID],
    values: dict[str, Any],
    entries: Sequence[Insertion],
) -> list[RunRecord]:
    """Update rows that are locked; return them as they are then."""
    if not ids:
        return []
    condition = f"id IN ({', '.join(['%s'] * len(ids))})"
    return update_and_read(RunRecord, condition, values, ids, _read(request), insertions=entries)


def _earliest(column: str, at: datetime) -> Expression:
    instant = as_parameter(at)
    sql = f"CASE WHEN {column} IS NULL OR {column} > %s THEN %s ELSE {column} END"
    return Expression(sql, (instant, instant))
