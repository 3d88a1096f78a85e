"""Start a run, start a child below one, ask runs to stop: what the doors call.

Each function commits before it tells anybody. Who may do it is asked here; how an answer looks is
the door's business. What a stop takes is in ``stopping``; the worker's own writes are in ``leases``
(claims, losses) and ``endings`` (log, receipt, final status).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from agents import registry
from agents.cancellation import CancelToken
from agents.environment import MAX_DEPTH
from agents.exceptions import AgentCallTooDeep
from agents.registry import AgentDefinition

from . import active, live
from .conf import conf
from .exceptions import IdempotencyMismatch, InputTooLarge, ParentIsStopping
from .models import RunInput, RunRecord, uuid7
from .statements import insert
from .status import Status
from .stopping import (
    AVAILABLE_MODES,
    BulkOutcome,
    BulkWord,
    StopResult,
    meet_request,
    request_stop,
    stop_many,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "AVAILABLE_MODES",
    "BulkOutcome",
    "BulkWord",
    "StopResult",
    "meet_request",
    "request_stop",
    "start_child",
    "start_run",
    "stop_many",
]


def start_run(
    agent: str,
    input: object,
    *,
    owner: User,
    idempotency_key: str | None = None,
    worker: uuid.UUID | None = None,
) -> tuple[RunRecord, bool]:
    """Queue a run of ``agent`` and wake the workers; return it and whether it is new.

    The same ``idempotency_key`` of the same owner with the same agent and input returns the run
    that there is. With ``worker`` (the command line, which runs it itself) it is claimed at once.

    Raises:
        AgentNotFound, InvalidInput: see ``agents.registry``; nothing was written.
        InputTooLarge: more than ``RUNS_MAX_INPUT_BYTES`` as JSON.
        IdempotencyMismatch: the key was used for something else.
    """
    definition, encoded = _validated(agent, input)
    digest = hashlib.sha256(f"{agent}\0".encode() + encoded).hexdigest() if idempotency_key else ""
    if idempotency_key and (known := _known(owner, idempotency_key, digest)):
        return known, False
    run = _new_run(definition, owner, idempotency_key=idempotency_key, idempotency_digest=digest)
    if worker is not None:
        _claimed_at_birth(run, worker)
    try:
        with active.claiming() if worker else nullcontext():
            with transaction.atomic():
                _insert(run, input, len(encoded))
            if worker is not None:
                active.add(active.ActiveRun(run.pk, worker))
    except IntegrityError:
        if idempotency_key and (known := _known(owner, idempotency_key, digest)):
            return known, False  # somebody was faster by a moment
        raise
    if worker is None:
        transaction.on_commit(live.wake_workers, robust=True)
    transaction.on_commit(lambda: live.publish_changes([(run.pk, run.root_id)]), robust=True)
    return run, True


def start_child(
    parent: active.ActiveRun, agent: str, input: object
) -> tuple[RunRecord, active.ActiveRun]:
    """Begin a run below ``parent``, in the parent's process and under its claim.

    Returns the record and the active entry, whose token is a child of the parent's.

    Raises:
        AgentNotFound, InvalidInput, InputTooLarge, AgentCallTooDeep: nothing was written.
        ParentIsStopping: the parent was asked to stop, or is over; nothing was written.
    """
    definition, encoded = _validated(agent, input)
    with active.claiming():
        with transaction.atomic():
            # The lock on the parent's row decides between a stop of the tree and this birth:
            # either the stop sees the child, or the child sees the stop.
            above = (
                RunRecord.objects.select_for_update(of=("self",), no_key=True)
                .select_related("owner")
                .filter(pk=parent.id, worker=parent.worker, attempt=parent.attempt)
                .filter(status=Status.RUNNING)
                .first()
            )
            if above is None or above.stop_requested:
                raise ParentIsStopping(f"Run {parent.id} was asked to stop.")
            if above.depth + 1 >= MAX_DEPTH:
                raise AgentCallTooDeep(f"agents called each other {MAX_DEPTH} levels deep")
            run = _new_run(definition, above.owner, parent=above)
            _claimed_at_birth(run, parent.worker)
            _insert(run, input, len(encoded))
        entry = active.ActiveRun(run.pk, parent.worker, token=CancelToken(parent.token))
        active.add(entry)
    live.publish_changes([(run.pk, run.root_id)])
    return run, entry


def _validated(agent: str, input: object) -> tuple[AgentDefinition, bytes]:
    definition = registry.get(agent)
    definition.validate_input(input)
    text = json.dumps(input, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    encoded = text.encode()
    limit = conf().max_input_bytes
    if len(encoded) > limit:
        raise InputTooLarge(f"The input has {len(encoded):,} bytes; {limit:,} is the limit.")
    return definition, encoded


def _new_run(
    definition: AgentDefinition, owner: User, *, parent: RunRecord | None = None, **fields: Any
) -> RunRecord:
    id = uuid7()
    return RunRecord(
        id=id,
        agent=definition.name,
        owner=owner,
        parent=parent,
        root_id=parent.root_id if parent else id,
        depth=parent.depth + 1 if parent else 0,
        # A child is never run again by itself: its caller is gone, and starts it afresh.
        requeue_on_loss=definition.on_worker_loss == "requeue" and parent is None,
        max_attempts=definition.max_attempts if parent is None else 1,
        **fields,
    )


def _claimed_at_birth(run: RunRecord, worker: uuid.UUID) -> None:
    run.status = Status.RUNNING
    run.worker_id = worker
    run.attempt = 1
    run.started_at = timezone.now()


def _insert(run: RunRecord, input: object, size_bytes: int) -> None:
    insert(run)
    insert(RunInput(run=run, value=input, size_bytes=size_bytes))


def _known(owner: User, key: str, digest: str) -> RunRecord | None:
    run = RunRecord.objects.filter(owner=owner, idempotency_key=key).first()
    if run is not None and run.idempotency_digest != digest:
        raise IdempotencyMismatch("This Idempotency-Key was used before, with another body.")
    return run
