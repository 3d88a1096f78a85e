"""The limits of a run: what its start gives it, what its worker knows of them, later changes.

A start takes the tightest of what the agent and the site say; a client may only tighten that. With
the permission ``runs.raise_limits`` it may ask for anything. ``limit_stops`` stops a run at them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from agents.exceptions import InvalidInput
from agents.options import Limits
from agents.registry import AgentDefinition
from runs.conf import conf
from runs.db.alias import on_commit
from runs.db.clock import database_now, monotonic_offset
from runs.db.transactions import in_transaction
from runs.db.users import may
from runs.delivery import local_runs, notify
from runs.exceptions import LimitsNotPermitted, RunAlreadyFinished, RunIsStopping
from runs.models import RAISE_LIMITS, RunEvent, RunRecord
from runs.wire import get_for_list, get_for_wire

from . import audit
from .stopping import authorize_stop

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "Given",
    "apply_limits",
    "change_limits",
    "first_deadline",
    "limits_of",
    "limits_of_start",
]

T = TypeVar("T", float, datetime)

NAMES = tuple(field.name for field in fields(Limits))
Given = Mapping[str, float | None]  # a limit that is not named stays as it is


def limits_of(definition: AgentDefinition) -> dict[str, float | None]:
    """Return the limits of an agent's runs: its own, and not beyond the site's."""
    own = definition.options.limits
    return {
        "deadline_seconds": _least(own.deadline_seconds, conf().deadline_seconds or None),
        "idle_seconds": own.idle_seconds,
        "call_seconds": own.call_seconds,
    }


def limits_of_start(
    definition: AgentDefinition, given: Given, owner: User
) -> dict[str, float | None]:
    """Return the limits of a run that ``owner`` starts with ``given``.

    Raises:
        InvalidInput: a value is no limit.
        LimitsNotPermitted: one is looser than the agent's or the site's, and ``owner`` may not.
    """
    known = limits_of(definition)
    _check(given, "limits.")
    _authorize(known, given, owner, "limits.")
    return {**known, **given}


def first_deadline(run: RunRecord, now: datetime) -> datetime | None:
    """Return the deadline of a run that starts ``now`` for the first time.

    Until then ``deadline_at`` has its caller's, which is the run's own if that is earlier.
    """
    seconds = run.deadline_seconds
    own = None if seconds is None else now + timedelta(seconds=seconds)
    return _least(own, run.deadline_at)


def apply_limits(runs: Iterable[tuple[local_runs.ActiveRun, RunRecord]]) -> None:
    """Let the tokens of claimed runs know their limits, before another thread sees the runs."""
    offset: float | None = None
    for entry, record in runs:
        if record.deadline_at is not None and offset is None:
            offset = monotonic_offset()
        limits = Limits(record.deadline_seconds, record.idle_seconds, record.call_seconds)
        entry.know_limits(limits, record.deadline_at, offset or 0.0)


def change_limits(run: uuid.UUID, given: Given, *, by: User) -> RunRecord:
    """Change limits of a run that is not over; return its record after the commit.

    Who may stop the run may tighten them; to loosen them takes ``runs.raise_limits``. A new
    deadline counts from the run's first start, and may be over by now. The deadlines of the runs
    below follow. The run's worker knows of it within half a second.

    Raises:
        RunRecord.DoesNotExist: there is no such run, or ``by`` may not see it.
        StopNotPermitted: ``by`` may neither stop the run nor raise limits.
        LimitsNotPermitted: a limit would be looser, and ``by`` may not.
        InvalidInput: a value is no limit.
        RunAlreadyFinished: the run is over.
        RunIsStopping: a stop was requested, or the deadline is over.
    """
    _check(given)

    def write() -> None:
        record = RunRecord.objects.select_for_update(no_key=True).get(pk=run)
        may_raise = may(by, RAISE_LIMITS)
        if not (may_raise and record.may_be_seen_by(by)):
            authorize_stop(record, by)
        if record.is_terminal:
            raise RunAlreadyFinished(record)
        now = database_now()
        if record.stop_requested or (record.deadline_at and record.deadline_at <= now):
            raise RunIsStopping("The run was asked to stop, or has reached its deadline.")
        known: dict[str, float | None] = {name: getattr(record, name) for name in NAMES}
        _authorize(known, given, by)
        changes = {name: value for name, value in given.items() if value != known[name]}
        if not changes:
            return
        written: dict[str, Any] = dict(changes)
        if "deadline_seconds" in changes:
            above = record.parent.deadline_at if record.parent else None
            written["deadline_at"] = _moved(record, changes["deadline_seconds"], above, now)
        RunRecord.objects.filter(pk=run).update(**written)
        audit.note_limits(record, by, {name: (known[name], changes[name]) for name in changes})
        changed = [(run, record.root_id)]
        if "deadline_at" in written and record.has_children:
            changed += _pass_down(record, written["deadline_at"], now)
        on_commit(lambda: _tell(changed), robust=True)

    try:
        in_transaction(write)
    except RunAlreadyFinished:
        raise RunAlreadyFinished(get_for_list(run)) from None
    return get_for_wire(run)


def _moved(
    record: RunRecord, seconds: float | None, above: datetime | None, now: datetime
) -> datetime | None:
    """Return the deadline of a run whose own limit becomes ``seconds``; ``above`` is its caller's.

    Without a first start it is the caller's alone: the first claim adds the run's own.
    """
    if seconds is None or not record.attempt:
        return above
    return _least(_first_start(record, above, now) + timedelta(seconds=seconds), above)


def _first_start(record: RunRecord, above: datetime | None, now: datetime) -> datetime:
    """Return when a run was claimed first; without a deadline of its own, when its log began."""
    if record.deadline_seconds and record.deadline_at and record.deadline_at != above:
        return record.deadline_at - timedelta(seconds=record.deadline_seconds)
    started = RunEvent.objects.filter(run=record, type="agent_start").order_by("seq").first()
    return started.ts if started else record.started_at or now


def _pass_down(
    record: RunRecord, deadline_at: datetime | None, now: datetime
) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Give the runs below a run its new deadline, if that is earlier than their own.

    The rows of callers are locked before those of the runs that they called.
    """
    changed = []
    above = {record.pk: (record.deadline_at, deadline_at)}
    while above:
        children = RunRecord.objects.select_for_update(no_key=True).active()
        below: dict[uuid.UUID, tuple[datetime | None, datetime | None]] = {}
        for child in children.filter(parent__in=above).order_by("depth", "pk"):
            assert child.parent_id is not None
            before, after = above[child.parent_id]
            own = child.deadline_at if child.deadline_at != before else None
            if own is None and child.deadline_seconds and child.attempt:
                start = _first_start(child, before, now)
                own = start + timedelta(seconds=child.deadline_seconds)
            moved = _least(own, after)
            if moved != child.deadline_at:
                RunRecord.objects.filter(pk=child.pk).update(deadline_at=moved)
                below[child.pk] = (child.deadline_at, moved)
                changed.append((child.pk, child.root_id))
        above = below
    return changed


def _tell(changed: Iterable[tuple[uuid.UUID, uuid.UUID]]) -> None:
    """Let the runs of this process know at once; other workers look twice a second."""
    changed = list(changed)
    here = {id: entry for id, _ in changed if (entry := local_runs.get(id)) is not None}
    records = RunRecord.objects.filter(pk__in=here).order_by("depth")
    apply_limits(
        (here[record.pk], record)
        for record in records
        if (here[record.pk].worker, here[record.pk].attempt) == (record.worker_id, record.attempt)
    )
    notify.publish_changes(changed)


def _check(given: Given, place: str = "") -> None:
    """Check that these are limits; ``place`` is where they stand in the body of a request."""
    problems = {f"{place}{name}": [hint] for name, hint in Limits(**given).problems()}
    if problems:
        path, messages = next(iter(problems.items()))
        raise InvalidInput(f"{path}: {messages[0]}", problems)


def _authorize(known: Given, given: Given, by: User, place: str = "") -> None:
    """Check that ``by`` may give a run these limits, which has the limits ``known``."""
    looser = {
        f"{place}{name}": [f"At most {known[name]:g} s."]
        for name, value in given.items()
        if known[name] is not None and (value is None or value > known[name])  # type: ignore[operator]
    }
    if looser and not may(by, RAISE_LIMITS):
        raise LimitsNotPermitted(looser)


def _least(*values: T | None) -> T | None:
    return min((value for value in values if value is not None), default=None)
