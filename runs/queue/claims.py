"""The queue: in which order runs are begun, and who begins them.

The highest priority comes first. Within one, owners come in turn, whatever number of runs each has
queued: start-time fair queueing (Goyal, Vin and Cheng, 1996). A run is dealt its ``turn`` at birth,
one behind the last that its owner has in the queue, and not before what is being served by now; the
lowest turn goes first. So the thousandth run of one owner has the turn 1,000, and the first one of
another, who comes later, that of the next to begin.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction

from agents import registry
from agents.exceptions import AgentNotFound
from agents.trace import Event
from runs import events, metrics
from runs.conf import conf
from runs.db.query_plans import plan_by_index
from runs.db.statements import Expression
from runs.delivery import notify
from runs.models import RunRecord
from runs.status import Status
from runs.transitions import Change, apply, claim_queued

from .limits import NO_LIMITS, Limits, Slots, taken_slots

__all__ = ["QueueIsBusy", "claim", "deadline", "end_overdue", "next_turn"]

# The order.

# ORDER BY ... LIMIT 1 and no max(): PostgreSQL takes an aggregate over all rows for as cheap while
# its statistics, from when the table was nearly empty, promise a single one.
_TURN = """1 + {greatest}(
    COALESCE((SELECT turn FROM runs_runrecord
        WHERE status = 'queued' AND owner_id = %s AND priority = %s
        ORDER BY turn DESC LIMIT 1), 0),
    COALESCE((SELECT turn FROM runs_runrecord
        WHERE status = 'queued' AND priority = %s
        ORDER BY turn LIMIT 1) - 1, 0),
    COALESCE((SELECT turn FROM runs_runrecord
        WHERE status = 'running' AND holds_slot AND priority = %s
        ORDER BY turn DESC LIMIT 1) - 1, 0))"""


def next_turn(run: RunRecord) -> Expression:
    """Return what works out, as ``run`` is inserted, when it is its turn.

    Two runs of one owner that are born at the same moment may get the same one: harmless, the older
    goes first.
    """
    greatest = "MAX" if connection.vendor == "sqlite" else "GREATEST"
    priority = run.priority
    return Expression(_TURN.format(greatest=greatest), (run.owner_id, *[priority] * 3))


_NEXT = """
SELECT {columns} FROM runs_runrecord WHERE status = 'queued' {also}
ORDER BY priority DESC, turn, created_at LIMIT %s {lock}
"""
_IN_TIME = "AND (queue_until IS NULL OR queue_until > %s)"
_THESE = "SELECT id FROM runs_runrecord WHERE id IN ({places})"


class QueueIsBusy(Exception):
    """Another worker is choosing just now, and the limits want one at a time to do that."""


def claim(
    worker: uuid.UUID, count: int, now: datetime, limits: Limits = NO_LIMITS
) -> dict[uuid.UUID, int]:
    """Take up to ``count`` queued runs for ``worker``; return each one's attempt.

    Two workers never get the same run. A worker that is draining or was declared lost gets none.
    Without ``limits`` this is one statement, and nobody waits for anybody on PostgreSQL. With them
    there may be more that could begin even if fewer than ``count`` are returned, as long as there
    are any.

    Raises:
        QueueIsBusy: nothing was taken; try again in a moment.
    """
    if limits:
        return _claim_within(limits, worker, count, now)
    choice = _NEXT.format(columns="id", also=_IN_TIME, lock=_lock())
    with transaction.atomic(savepoint=False):
        plan_by_index()
        return claim_queued(worker, now, choice, [_instant(now), count])


def _claim_within(
    limits: Limits, worker: uuid.UUID, count: int, now: datetime
) -> dict[uuid.UUID, int]:
    """As ``claim``. The slots are counted and taken while nobody else does."""
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        plan_by_index()
        cursor.execute("SELECT 1 FROM runs_runrecord WHERE status = 'queued' LIMIT 1")
        if cursor.fetchone() is None:
            return {}
        if connection.vendor == "postgresql":
            cursor.execute(_ALONE, [_ALONE_KEY])
            if not cursor.fetchone()[-1]:
                raise QueueIsBusy
        slots = taken_slots(limits)
        also, arguments = _not_full(slots)
        choice = _NEXT.format(
            columns="id, owner_id, agent, holds_slot", also=f"{_IN_TIME} {also}", lock=_lock()
        )
        cursor.execute(choice, [_instant(now), *arguments, count])
        chosen = []
        for id, owner_id, agent, holds_slot in cursor.fetchall():
            if holds_slot:
                if slots.obstacle(agent, owner_id):
                    continue
                slots.take(agent, owner_id)
            chosen.append(id)
        if not chosen:
            return {}
        these = _THESE.format(places=", ".join(["%s"] * len(chosen)))
        return claim_queued(worker, now, these, chosen)


# A process that is stopped in the middle of this must not keep all others from claiming.
_ALONE = """
SELECT set_config('idle_in_transaction_session_timeout', '5000', true),
    pg_try_advisory_xact_lock(%s)
"""
_ALONE_KEY = 0x68616C74696E67  # one of the database's 2**64: "halting" in ASCII


def _not_full(slots: Slots) -> tuple[str, list[Any]]:
    """Return a condition that leaves out runs that can't have a slot, and its arguments."""
    conditions: list[str] = []
    arguments: list[Any] = []
    for column, full in (("agent", slots.full_agents()), ("owner_id", slots.full_owners())):
        if full:
            conditions.append(f"{column} NOT IN ({', '.join(['%s'] * len(full))})")
            arguments += full
    if not conditions:
        return "", []
    return f"AND (NOT holds_slot OR ({' AND '.join(conditions)}))", arguments


def _lock() -> str:
    return "FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""


def _instant(at: datetime) -> Any:
    return RunRecord._meta.get_field("queue_until").get_db_prep_value(at, connection)


# The time limit.


def deadline(agent: str, since: datetime) -> datetime | None:
    """Return until when a run that is queued at ``since`` must have begun; None for no limit."""
    try:
        seconds = registry.get(agent).options.queue_seconds
    except AgentNotFound:  # handed back by a process that does not have it
        seconds = None
    if seconds is None:
        seconds = conf().queue_seconds
    return since + timedelta(seconds=seconds) if seconds else None


def end_overdue(now: datetime, limit: int = 100) -> int:
    """End up to ``limit`` queued runs whose time is over, as ``error``; return how many.

    By many at once, each is ended by one. What somebody else is about to stop is left to them.
    """
    overdue = RunRecord.objects.filter(status=Status.QUEUED, queue_until__lte=now)
    if not overdue.exists():  # SQLite would have everybody wait for a transaction that writes
        return 0
    with transaction.atomic():
        records = list(
            overdue.select_for_update(no_key=True, skip_locked=True).order_by("queue_until")[:limit]
        )
        log: list[Event] = []
        changes = []
        for record in records:
            error = _timeout(record)
            data = {"status": Status.ERROR, "outcome": Status.ERROR, "started": False}
            end = events.system_event(
                record, record.last_seq + 1, "agent_end", {**data, "error": error}
            )
            at = max(end.ts, record.created_at)  # the clocks of two hosts
            fields = {"error": error, "finished_at": at, "last_seq": end.seq}
            changes.append(Change(record.pk, Status.ERROR, None, fields))
            log.append(end)
        done = apply(changes)
        assert done == len(records), "the rows are locked, and they were queued"
        events.append(log)
        concerned = [(record.pk, record.root_id) for record in records]
        transaction.on_commit(lambda: notify.publish_events(log), robust=True)
        transaction.on_commit(lambda: notify.publish_changes(concerned), robust=True)
    for record in records:
        metrics.RUNS_FINISHED.labels(Status.ERROR, record.agent).inc()
    return len(records)


def _timeout(record: RunRecord) -> dict[str, Any]:
    assert record.queue_until is not None
    seconds = (record.queue_until - record.created_at).total_seconds()
    message = (
        "It was handed back, and no worker took it again in time."
        if record.attempt
        else f"No worker took it within {seconds:g} s."
    )
    return {"code": "queue_timeout", "type": "QueueTimeout", "message": message}
