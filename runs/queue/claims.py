"""Which queued runs a worker claims next: the highest priority, then the lowest turn."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from runs.db.alias import atomic, connection
from runs.db.query_plans import plan_by_index
from runs.db.statements import as_parameter
from runs.db.users import key_as_parameter, key_as_read
from runs.models import RunRecord
from runs.transitions import claim_queued

from .limits import NO_LIMITS, Limits, Slots, taken_slots

__all__ = ["QueueIsBusy", "claim", "is_any_queued"]

_NEXT = """
SELECT {columns} FROM runs_runrecord WHERE status = 'queued' {also}
ORDER BY priority DESC, turn, created_at LIMIT %s {lock}
"""
_IN_TIME = "AND (queue_until IS NULL OR queue_until > %s)"
_THESE = "SELECT id FROM runs_runrecord WHERE id IN ({places})"


class QueueIsBusy(Exception):
    """Another worker is claiming under the limits, which only one worker at a time may do."""


_ANY = "SELECT 1 FROM runs_runrecord WHERE status = 'queued' LIMIT 1"


def is_any_queued() -> bool:
    """Tell whether a claim may find something, for less than a claim that finds nothing."""
    with connection.cursor() as cursor:
        cursor.execute(_ANY)
        return cursor.fetchone() is not None


def claim(
    worker: uuid.UUID,
    count: int,
    now: datetime,
    limits: Limits = NO_LIMITS,
    is_begin: bool = False,
) -> dict[uuid.UUID, RunRecord]:
    """Claim up to ``count`` queued runs for ``worker``; return each as it is then.

    Two workers never get the same run. A worker gets none that drains, was declared lost, or should
    have renewed its lease by now. ``is_begin``: see ``transitions.claim_queued``.
    Without ``limits`` this is one statement; on PostgreSQL no worker waits for another. With limits
    a result of fewer than ``count`` runs does not mean that the queue has no more to claim; an
    empty result does.

    Raises:
        QueueIsBusy: no run was claimed; try again in a moment.
    """
    if limits:
        return _claim_within(limits, worker, count, now, is_begin)
    choice = _NEXT.format(columns="id", also=_IN_TIME, lock=_lock())
    with atomic(savepoint=False):
        plan_by_index()
        return claim_queued(worker, now, choice, [as_parameter(now), count], is_begin=is_begin)


def _claim_within(
    limits: Limits, worker: uuid.UUID, count: int, now: datetime, is_begin: bool
) -> dict[uuid.UUID, RunRecord]:
    """Claim as ``claim`` does. No other worker counts or takes slots meanwhile."""
    with atomic(savepoint=False), connection.cursor() as cursor:
        plan_by_index()
        cursor.execute(_ANY)
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
        cursor.execute(choice, [as_parameter(now), *arguments, count])
        chosen = []
        for id, owner, agent, holds_slot in cursor.fetchall():
            if holds_slot:
                owner_id = key_as_read(owner)
                if slots.obstacle(agent, owner_id):
                    continue
                slots.take(agent, owner_id)
            chosen.append(id)
        if not chosen:
            return {}
        these = _THESE.format(places=", ".join(["%s"] * len(chosen)))
        return claim_queued(worker, now, these, chosen, is_begin=is_begin)


# The timeout: a process that freezes in this transaction must not keep all others from claiming.
_ALONE = """
SELECT set_config('idle_in_transaction_session_timeout', '5000', true),
    pg_try_advisory_xact_lock(%s)
"""
_ALONE_KEY = 0x68616C74696E67  # one of the database's 2**64: "halting" in ASCII


def _not_full(slots: Slots) -> tuple[str, list[Any]]:
    """Return a condition that excludes runs that can't get a slot, and its arguments."""
    conditions: list[str] = []
    arguments: list[Any] = []
    full_owners = [key_as_parameter(owner) for owner in slots.full_owners()]
    for column, full in (("agent", slots.full_agents()), ("owner_id", full_owners)):
        if full:
            conditions.append(f"{column} NOT IN ({', '.join(['%s'] * len(full))})")
            arguments += full
    if not conditions:
        return "", []
    return f"AND (NOT holds_slot OR ({' AND '.join(conditions)}))", arguments


def _lock() -> str:
    return "FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
