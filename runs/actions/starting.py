"""Start a run, or a child below a run.

Each function commits before it sends a message. It checks the permission; its caller (a view, a
command, the agent caller) translates the answer.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError
from django.db.models import Exists, OuterRef
from django.utils import timezone

from agents import registry
from agents.cancellation import CancelToken
from agents.environment import MAX_DEPTH
from agents.exceptions import AgentCallTooDeep, AgentNotFound, InvalidInput
from agents.options import HIGHEST_PRIORITY, LOWEST_PRIORITY
from agents.registry import AgentDefinition
from runs.conf import conf
from runs.db.alias import atomic, on_commit
from runs.db.clock import database_now
from runs.db.statements import insert, insert_instances, one_statement
from runs.db.transactions import whole_or_not_at_all
from runs.db.users import may
from runs.delivery import local_runs, notify
from runs.exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    LimitsNotPermitted,
    ParentIsStopping,
    PriorityNotPermitted,
    QuotaExceeded,
)
from runs.models import RunInput, RunRecord, WorkerRecord, uuid7
from runs.queue.deadlines import deadline
from runs.queue.turns import next_turn, read_next_turn
from runs.quotas import ledger, queued, sizes
from runs.signals import receivers
from runs.status import Status
from runs.telemetry.traceparent import current_traceparent

from .limits import Given, apply_limits, first_deadline, limits_of, limits_of_start

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "IDEMPOTENCY_KEY_PATTERN",
    "MOST_STARTS",
    "Start",
    "Started",
    "queue_child",
    "start_child",
    "start_many",
    "start_run",
]

IDEMPOTENCY_KEY_PATTERN = r"^[!-~]([ -~]{0,253}[!-~])?$"
MOST_STARTS = 1_000  # by one call of start_many


@dataclass(frozen=True, slots=True)
class Start:
    """One of many starts: see ``start_run`` for what each means."""

    agent: str
    input: Any
    idempotency_key: str | None = None
    priority: int | None = None
    limits: Given = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a start: it has either a run or an error.

    Attributes:
        is_new: False if the run was there before, by its idempotency key.
    """

    run: RunRecord | None = None
    is_new: bool = False
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Valid:
    """A start that was checked, and the run that it makes."""

    start: Start
    run: RunRecord
    size_bytes: int


def start_run(
    agent: str,
    input: object,
    *,
    owner: User,
    idempotency_key: str | None = None,
    priority: int | None = None,
    limits: Given = MappingProxyType({}),
    worker: uuid.UUID | None = None,
) -> tuple[RunRecord, bool]:
    """Queue a run of ``agent`` and wake the workers; return it and whether it is new.

    The same ``idempotency_key`` of the same owner with the same agent, input, priority and limits
    returns the existing run. Without ``priority`` the run has its agent's; every owner may choose a
    lower one. ``limits`` may be tighter than those of the agent and the site. With ``worker`` (the
    command line, which executes the run itself) it is claimed at once.

    Raises:
        AgentNotFound, InvalidInput: see ``agents.registry``; nothing was written. InvalidInput also
            for a priority that is not a whole number in the range, for a limit that is none, and
            for a key that a header could not carry.
        PriorityNotPermitted: above the agent's own, and ``owner`` may not.
        LimitsNotPermitted: looser than the agent's or the site's, and ``owner`` may not.
        InputTooLarge: more than ``RUNS_MAX_INPUT_BYTES`` as JSON.
        IdempotencyMismatch: the key was used for something else.
        QuotaExceeded: the owner has too many queued runs, or has stored too much. A run that exists
            is returned nevertheless.
    """
    valid = _checked(Start(agent, input, idempotency_key, priority, limits), owner)
    run = valid.run
    if idempotency_key and (known := _known(run)):
        return known, False
    token = CancelToken()
    if worker is not None:
        _claimed_at_birth(run, worker)
        token.lease = local_runs.lease_of(worker)
    try:
        with ledger.reserving() as reserve, local_runs.claiming() if worker else nullcontext():
            is_free = worker is not None or queued.is_free(run.owner_id)
            with one_statement() if is_free else atomic():
                if not is_free:
                    queued.admit_queued(run.owner_id)
                _insert(run, input, valid.size_bytes, reserve, current_traceparent())
            if worker is not None:
                entry = local_runs.ActiveRun(run.pk, worker, token=token)
                apply_limits([(entry, run)])
                local_runs.add(entry)
    except (IntegrityError, QuotaExceeded):
        if idempotency_key and (known := _known(run)):
            return known, False  # another request with this key committed first
        raise
    if worker is None:
        on_commit(lambda: notify.send_start(run.pk), robust=True)
    on_commit(lambda: notify.publish_changes([(run.pk, run.root_id)]), robust=True)
    if worker is not None:
        on_commit(lambda: receivers.send_started([run]), robust=True)
    return run, True


#: What may be wrong with one start, and not with the others.
_REFUSALS = (
    AgentNotFound,
    InvalidInput,
    InputTooLarge,
    PriorityNotPermitted,
    LimitsNotPermitted,
    IdempotencyMismatch,
    QuotaExceeded,
)


def start_many(starts: Sequence[Start], *, owner: User) -> list[Started]:
    """Queue runs in one transaction, wake the workers by one message; return what became of each.

    A start that is refused has its error, and the others start. Of two starts with one idempotency
    key the first makes the run. If the database fails, nothing was started.

    Raises:
        ValueError: there are more than ``MOST_STARTS``.
    """
    if len(starts) > MOST_STARTS:
        raise ValueError(f"at most {MOST_STARTS:,} runs can be started at a time")
    checked: list[_Valid | Exception] = []
    for start in starts:
        try:
            checked.append(_checked(start, owner))
        except _REFUSALS as error:
            checked.append(error)
    keys = {one.start.idempotency_key for one in checked if isinstance(one, _Valid)} - {None}
    known = _known_by_key(owner, keys)
    while True:
        try:
            return _start_checked(checked, dict(known))
        except IntegrityError:
            found = _known_by_key(owner, keys)
            if len(found) <= len(known):
                raise
            known = found  # another request with one of the keys committed first


def _start_checked(
    checked: Sequence[_Valid | Exception], known: dict[str | None, RunRecord]
) -> list[Started]:
    outcomes: list[Started] = []
    new: list[_Valid] = []
    with ledger.reserving() as reserve, atomic():
        for one in checked:
            if not isinstance(one, _Valid):
                outcomes.append(Started(error=one))
                continue
            try:
                outcome = _admit(one, known, reserve, len(new))
            except _REFUSALS as error:
                outcome = Started(error=error)
            outcomes.append(outcome)
            if outcome.is_new:
                new.append(one)
                known[one.start.idempotency_key] = one.run
        _insert_many(new)
    if new:
        runs = [one.run for one in new]
        on_commit(
            lambda: notify.send_start(runs[0].pk) if len(runs) == 1 else notify.wake_workers(),
            robust=True,
        )
        changed = [(run.pk, run.root_id) for run in runs]
        on_commit(lambda: notify.publish_changes(changed), robust=True)
    return outcomes


def _admit(
    one: _Valid,
    known: Mapping[str | None, RunRecord],
    reserve: ledger.Reserving,
    waiting: int,
) -> Started:
    """Find the run of a start's key, or make room for a new one after ``waiting`` others."""
    run, key = one.run, one.start.idempotency_key
    before = known.get(key) if key else None
    if before is None:
        try:
            queued.admit_queued(run.owner_id, waiting)
            run.value_bytes = sizes.RUN_BYTES + one.size_bytes
            reserve(run.owner_id, run.value_bytes)
        except QuotaExceeded:
            before = _known(run) if key else None  # it may have taken the last place
            if before is None:
                raise
    return Started(run, is_new=True) if before is None else Started(_if_the_same(before, run))


def start_child(
    parent: local_runs.ActiveRun,
    agent: str,
    input: object,
    id: uuid.UUID | None = None,
    traceparent: str | None = None,
) -> tuple[RunRecord, local_runs.ActiveRun]:
    """Start a run below ``parent``, in the parent's process and under its claim.

    It has this ``id``, by which a caller finds what was written if no answer came. ``traceparent``
    is that of the code that starts it. Returns the record and the entry of ``local_runs``, whose
    token is a child of the parent's.

    Raises:
        AgentNotFound, InvalidInput, InputTooLarge, AgentCallTooDeep: nothing was written.
        ParentIsStopping: the parent was asked to stop, or is over; nothing was written.
        QuotaExceeded: as for a run without a parent; nothing was written.
        NothingWritten: the database is away; it may be tried again.
    """
    definition, encoded = _validated(agent, input)
    with ledger.reserving() as reserve, local_runs.claiming():
        with whole_or_not_at_all():
            run = _new_child(parent, definition, id, is_called=True)
            _claimed_at_birth(run, parent.worker)
            _insert(run, input, len(encoded), reserve, traceparent)
        token = CancelToken(parent.token)
        entry = local_runs.ActiveRun(run.pk, parent.worker, token=token, caller=parent)
        apply_limits([(entry, run)])
        local_runs.add(entry)
    notify.publish_changes([(run.pk, run.root_id)])
    receivers.send_started([run])
    return run, entry


def queue_child(
    parent: local_runs.ActiveRun,
    agent: str,
    input: object,
    id: uuid.UUID | None = None,
    traceparent: str | None = None,
) -> RunRecord:
    """Queue a run below ``parent``, with its priority, and wake the workers.

    It has this ``id`` and this ``traceparent``, as in ``start_child``.

    Raises:
        AgentNotFound, InvalidInput, InputTooLarge, AgentCallTooDeep: nothing was written.
        ParentIsStopping: the parent was asked to stop, or is over; nothing was written.
        QuotaExceeded: as for a run without a parent; nothing was written.
        NothingWritten: the database is away; it may be tried again.
    """
    definition, encoded = _validated(agent, input)
    with ledger.reserving() as reserve, whole_or_not_at_all():
        run = _new_child(parent, definition, id, is_called=False)
        queued.admit_queued(run.owner_id)
        _insert(run, input, len(encoded), reserve, traceparent)
    notify.send_start(run.pk)
    notify.publish_changes([(run.pk, run.root_id)])
    return run


def _new_child(
    parent: local_runs.ActiveRun,
    definition: AgentDefinition,
    id: uuid.UUID | None,
    *,
    is_called: bool,
) -> RunRecord:
    """Return a run below ``parent``, whose row this locks until the transaction ends.

    A stop of the tree locks the same row: either the stop sees the child, or this sees the stop.
    The parent's ending locks it too, and waits for all children. A parent whose worker was lost
    gets no more children.
    """
    alive = WorkerRecord.objects.filter(pk=OuterRef("worker"), lost_at=None)
    above = (
        RunRecord.objects.select_for_update(of=("self",), no_key=True)
        .select_related("owner")
        .filter(Exists(alive), pk=parent.id, worker=parent.worker, attempt=parent.attempt)
        .filter(status=Status.RUNNING)
        .first()
    )
    if above is None or above.stop_requested:
        raise ParentIsStopping(f"Run {parent.id} was asked to stop.")
    if above.depth + 1 >= MAX_DEPTH:
        raise AgentCallTooDeep(f"agents called each other {MAX_DEPTH} levels deep")
    if not above.has_children:
        RunRecord.objects.filter(pk=above.pk).update(has_children=True)
    return _new_run(definition, above.owner, id, parent=above, is_called=is_called)


def _checked(start: Start, owner: User) -> _Valid:
    """Check a start, and make the run that it is for.

    Raises:
        As ``start_run``, but for quotas.
    """
    definition, encoded = _validated(start.agent, start.input)
    key, priority = start.idempotency_key, start.priority
    _check_key(key)
    _check_priority(priority, definition, owner)
    limits = limits_of_start(definition, start.limits, owner)
    digest = _digest(start.agent, encoded, priority, start.limits) if key else ""
    run = _new_run(definition, owner, idempotency_key=key, idempotency_digest=digest)
    if priority is not None:
        run.priority = priority
    for name, value in limits.items():
        setattr(run, name, value)
    return _Valid(start, run, len(encoded))


def _validated(agent: str, input: object) -> tuple[AgentDefinition, bytes]:
    definition = registry.get(agent)
    definition.validate_input(input)
    text = json.dumps(input, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    encoded = text.encode()
    limit = conf().max_input_bytes
    if len(encoded) > limit:
        raise InputTooLarge(f"The input has {len(encoded):,} bytes; {limit:,} is the limit.")
    return definition, encoded


def _check_key(key: str | None) -> None:
    if key is not None and not re.fullmatch(IDEMPOTENCY_KEY_PATTERN, key):
        message = "1 to 255 printable ASCII characters are expected."
        raise InvalidInput(f"idempotency_key: {message}", {"idempotency_key": [message]})


def _check_priority(priority: int | None, definition: AgentDefinition, owner: User) -> None:
    if priority is None:
        return
    if type(priority) is not int or not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        message = f"A whole number from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY} is expected."
        raise InvalidInput(f"priority: {message}", {"priority": [message]})
    own = definition.options.priority
    if priority > own and not may(owner, "runs.prioritise_runrecord"):
        raise PriorityNotPermitted(f"You may not start runs of a priority above {own}.")


def _digest(agent: str, encoded: bytes, priority: int | None, limits: Given) -> str:
    chosen = "" if priority is None else f"\0{priority}"
    chosen += "".join(f"\0{name}={value}" for name, value in sorted(limits.items()))
    return hashlib.sha256(f"{agent}\0".encode() + encoded + chosen.encode()).hexdigest()


def _new_run(
    definition: AgentDefinition,
    owner: User,
    id: uuid.UUID | None = None,
    *,
    parent: RunRecord | None = None,
    is_called: bool = False,
    **fields: Any,
) -> RunRecord:
    id = id or uuid7()
    options = definition.options
    return RunRecord(
        id=id,
        agent=definition.name,
        owner=owner,
        parent=parent,
        root_id=parent.root_id if parent else id,
        depth=parent.depth + 1 if parent else 0,
        # Not for a called run: its caller is lost with it, and calls it again.
        requeue_on_loss=options.on_worker_loss == "requeue" and not is_called,
        max_attempts=1 if is_called else options.max_attempts,
        priority=options.priority if parent is None else parent.priority,
        deadline_at=parent.deadline_at if parent else None,
        **limits_of(definition),
        **fields,
    )


def _claimed_at_birth(run: RunRecord, worker: uuid.UUID) -> None:
    run.status = Status.RUNNING
    run.worker_id = worker
    run.attempt = 1
    run.holds_slot = False  # it does not come from the queue
    run.started_at = timezone.now()
    if run.deadline_seconds is not None:
        run.deadline_at = first_deadline(run, database_now())


def _insert(
    run: RunRecord,
    input: object,
    size_bytes: int,
    reserve: ledger.Reserving,
    traceparent: str | None,
) -> None:
    run.value_bytes = sizes.RUN_BYTES + size_bytes
    reserve(run.owner_id, run.value_bytes)
    computed = {}
    if run.status == Status.QUEUED:
        run.queue_until = deadline(run.agent, run.created_at)
        computed = {"turn": next_turn(run)}
    given = RunInput(run=run, value=input, size_bytes=size_bytes, traceparent=traceparent)
    insert(run, given, **computed)


def _insert_many(new: Sequence[_Valid]) -> None:
    """Insert queued runs of one owner, each with the turn after the one before."""
    turns: dict[int, int] = {}  # of the next run of a priority
    for one in new:
        run = one.run
        run.queue_until = deadline(run.agent, run.created_at)
        if run.priority not in turns:
            turns[run.priority] = read_next_turn(run)
        run.turn = turns[run.priority]
        turns[run.priority] += 1
    traceparent = current_traceparent()
    # By key: two transactions with the same keys in different orders would wait for each other.
    by_key = sorted(new, key=lambda one: one.run.idempotency_key or "")
    insert_instances([one.run for one in by_key])
    insert_instances(
        [
            RunInput(
                run=one.run,
                value=one.start.input,
                size_bytes=one.size_bytes,
                traceparent=traceparent,
            )
            for one in new
        ]
    )


def _known(run: RunRecord) -> RunRecord | None:
    """Return the run that was started before with the key of this one."""
    key = run.idempotency_key
    known = RunRecord.objects.filter(owner=run.owner_id, idempotency_key=key).first()
    return None if known is None else _if_the_same(known, run)


def _known_by_key(owner: User, keys: Collection[str | None]) -> dict[str | None, RunRecord]:
    if not keys:
        return {}
    runs = RunRecord.objects.filter(owner=owner, idempotency_key__in=keys)
    return {run.idempotency_key: run for run in runs}


def _if_the_same(known: RunRecord, run: RunRecord) -> RunRecord:
    if known.idempotency_digest != run.idempotency_digest:
        raise IdempotencyMismatch("This Idempotency-Key was used before, with another body.")
    return known
