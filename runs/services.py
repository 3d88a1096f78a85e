"""Start a run, start a child below one, ask runs to stop: what the doors call.

Each function commits before it tells anybody. Who may do it is asked here; how an answer looks is
the door's business. The worker's own writes are in ``leases`` (claims, losses) and ``endings``
(log, receipt, final status).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Container, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from agents import registry
from agents.cancellation import CancelToken, StopCause, StopMode
from agents.environment import MAX_DEPTH
from agents.exceptions import AgentCallTooDeep
from agents.registry import AgentDefinition

from . import active, events, live, transitions
from .active import StopRequest
from .conf import conf
from .exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    ModeNotAvailable,
    ParentIsStopping,
    RunAlreadyFinished,
    StopNotPermitted,
)
from .models import MAX_REASON_LENGTH, RunInput, RunQuerySet, RunRecord, StopVia, uuid7
from .statements import insert
from .status import Status
from .transitions import Change

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "AVAILABLE_MODES",
    "BulkOutcome",
    "StopResult",
    "meet_request",
    "request_stop",
    "start_child",
    "start_run",
    "stop_many",
]


#: The rungs that exist so far. The others have their place in token, guard and record.
AVAILABLE_MODES = (StopMode.GRACEFUL,)


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
    return run, entry


def meet_request(run: active.ActiveRun) -> None:
    """Trip the token of a run of this process if its record says that it is to stop.

    Or that it is this worker's no more: then nobody here may go on with it.
    """
    record = (
        RunRecord.objects.select_related("stop_requested_by")
        .filter(pk=run.id, worker=run.worker, attempt=run.attempt, status=Status.RUNNING)
        .first()
    )
    if record is None:
        run.token.request(reason="the claim was lost", cause=StopCause.SHUTDOWN)
    elif record.stop_requested:
        requests = {record.pk: StopRequest.of(record), **_requests_in([record.root_id])}
        active.trip([run.id], requests)


def _requests_in(roots: Collection[uuid.UUID]) -> dict[uuid.UUID, StopRequest]:
    """Return the request of each active run of these trees that has one.

    Whoever trips a token trips those of all below it, whose logs tell of their own requests.
    """
    stopping = (
        RunRecord.objects.active()
        .select_related("stop_requested_by")
        .filter(root__in=roots, stop_requested_at__isnull=False)
    )
    return {record.pk: StopRequest.of(record) for record in stopping}


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


Accepted = Literal["accepted", "already_stopping"]


@dataclass(frozen=True, slots=True)
class StopResult:
    """What came of asking one run to stop."""

    run: RunRecord
    outcome: Accepted


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
    when this returns; a worker elsewhere is sent a message, and looks by itself within a second.
    A second request changes neither requester nor reason.

    Raises:
        RunRecord.DoesNotExist: there is no such run.
        StopNotPermitted: ``by`` may not stop it (not asked with ``check_permission`` False).
        RunAlreadyFinished: it is over.
        ModeNotAvailable: that rung does not exist yet.
        ValueError: no such mode, or the reason is too long.
    """
    wish = _Wish(mode, reason, via, by)
    with transaction.atomic():
        record = _locked([run]).get()
        if check_permission and (by is None or not record.may_be_stopped_by(by)):
            raise StopNotPermitted("You may see this run, but not stop it.")
        if record.is_terminal:
            raise RunAlreadyFinished(record)
        outcome = wish.write([record])[record.pk]
    return StopResult(RunRecord.objects.select_related("owner").get(pk=run), outcome)


def _locked(ids: Sequence[uuid.UUID]) -> RunQuerySet:
    return (
        # no_key: else a child that is being born below one of these waits for us with its caller's
        # row locked, and we for that. Prefetched, not joined: see endings.
        RunRecord.objects.select_for_update(no_key=True)
        .prefetch_related("stop_requested_by")
        .filter(pk__in=ids)
        .order_by("depth", "pk")  # everybody locks callers before called
    )


class _Wish:
    """A checked wish to stop, to be written into the runs that it is for."""

    def __init__(self, mode: StopMode | str, reason: str, via: StopVia, by: User | None) -> None:
        self.mode = StopMode(mode)
        if self.mode not in AVAILABLE_MODES:
            raise ModeNotAvailable(f"Stopping by {mode} is not available yet; use graceful.")
        if len(reason) > MAX_REASON_LENGTH:
            raise ValueError(
                f"a reason has at most {MAX_REASON_LENGTH} characters, not {len(reason)}"
            )
        self.reason = reason
        self.via = via
        self.by = by
        self.at = timezone.now()

    def write(self, records: Sequence[RunRecord]) -> dict[uuid.UUID, Accepted]:
        """Write it into locked, active records and all active runs below them.

        Within the caller's transaction; tokens are tripped once that is committed. Says what came
        of it for each of ``records``.
        """
        fresh = [record for record in records if not record.stop_requested]
        again = [record for record in records if record.stop_requested]
        outcomes: dict[uuid.UUID, Accepted] = {record.pk: "already_stopping" for record in again}
        # Who asked first may not have come to trip the token yet.
        requests = _requests_in({record.root_id for record in again}) if again else {}
        requests |= {record.pk: StopRequest.of(record) for record in again}
        self._update([record.pk for record in fresh], self.via, F("pk"))
        for record in fresh:
            requests[record.pk] = self._request(self.via, record.pk)
            outcomes[record.pk] = "accepted"
        # Again until nothing new turns up: a child may be born under a row not yet written to.
        while below := _active_below(fresh, apart=requests):
            requests |= self._write_below(below)
        for record in fresh:
            if record.status == Status.QUEUED:
                _end_queued(record, requests[record.pk])
        transaction.on_commit(lambda: _deliver(records, requests), robust=True)
        return outcomes

    def _write_below(self, below: dict[uuid.UUID, uuid.UUID]) -> dict[uuid.UUID, StopRequest]:
        """Write it into runs below, given by what is above them; return the request of each."""
        requests = {}
        fresh: dict[uuid.UUID | F, list[uuid.UUID]] = {}
        for record in _locked(list(below)).active().only(*_STOP_READS):
            ancestor = below[record.pk]
            if record.stop_requested:  # by itself, before
                requests[record.pk] = StopRequest.of(record)
            else:
                requests[record.pk] = self._request(StopVia.PARENT, ancestor)
                # Most are below a root that was stopped: all of these are one statement.
                above = _ROOT if ancestor == record.root_id else ancestor
                fresh.setdefault(above, []).append(record.pk)
        for above, ids in fresh.items():
            self._update(ids, StopVia.PARENT, above)
        return requests

    def _update(self, ids: Sequence[uuid.UUID], via: StopVia, root_request: object) -> None:
        if ids:
            RunRecord.objects.active().filter(pk__in=ids, stop_requested_at=None).update(
                stop_requested_at=self.at,
                stop_mode=self.mode,
                stop_reason=self.reason,
                stop_via=via,
                stop_requested_by=self.by,
                stop_root_request=root_request,
            )

    def _request(self, via: StopVia, root_request: uuid.UUID) -> StopRequest:
        name = self.by.get_username() if self.by is not None else None
        return StopRequest(self.mode, self.reason, str(via), name, self.at, root_request)


def _active_below(
    records: Sequence[RunRecord], *, apart: Container[uuid.UUID]
) -> dict[uuid.UUID, uuid.UUID]:
    """Map the active runs below, those ``apart`` left out, to the nearest of ``records`` above."""
    nearest = {record.pk: record.pk for record in records}
    found: dict[uuid.UUID, uuid.UUID] = {}
    roots = {record.root_id for record in records}
    tree = RunRecord.objects.active().filter(root__in=roots, depth__gt=0).order_by("depth")
    for id, parent in tree.values_list("pk", "parent_id"):
        if parent not in nearest:
            continue
        nearest.setdefault(id, nearest[parent])
        if id not in apart:
            found[id] = nearest[parent]
    return found


def _end_queued(record: RunRecord, request: StopRequest) -> None:
    """Let a run that nobody has claimed be over at once."""
    log = [
        events.system_event(record, record.last_seq + 1, "stop_requested", request.as_data()),
        events.system_event(
            record,
            record.last_seq + 2,
            "agent_end",
            {"status": Status.STOPPED, "outcome": Status.STOPPED, "started": False},
        ),
    ]
    fields = {"finished_at": request.requested_at, "last_seq": log[-1].seq}
    done = transitions.apply([Change(record.pk, Status.STOPPED, None, fields)])
    assert done, "the row is locked, and it was queued"
    events.append(log)
    transaction.on_commit(lambda: live.publish_events(log), robust=True)


def _deliver(records: Sequence[RunRecord], requests: dict[uuid.UUID, StopRequest]) -> None:
    here = active.trip([record.pk for record in records], requests)
    elsewhere: dict[uuid.UUID, list[uuid.UUID]] = {}
    for record in records:
        if record.worker_id is not None and record.pk not in here:
            elsewhere.setdefault(record.worker_id, []).append(record.pk)
    for worker, runs in elsewhere.items():
        live.send_stop(worker, runs)


BulkWord = Literal["accepted", "already_stopping", "already_finished", "not_permitted", "not_found"]
_STOP_READS = (
    *("agent", "depth", "last_seq", "owner_id", "root_id", "status", "worker_id"),
    *("stop_mode", "stop_reason", "stop_requested_at", "stop_root_request", "stop_via"),
    "stop_requested_by",
)
_ROOT = F("root_id")
_CHUNK = 500  # runs to a transaction: databases bound parameters, and others want to write, too


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """What came of asking one of many runs to stop."""

    id: str
    outcome: BulkWord


def stop_many(
    ids: Iterable[uuid.UUID],
    *,
    by: User,
    via: StopVia,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
) -> list[BulkOutcome]:
    """Ask many runs to stop; one outcome each, in the order given, repeats answered once.

    What ``by`` may not see is ``not_found``. Runs below others that are being stopped read
    ``already_stopping``.
    """
    wish = _Wish(mode, reason, via, by)
    wanted = list(dict.fromkeys(ids))
    outcomes: dict[uuid.UUID, BulkWord] = dict.fromkeys(wanted, "not_found")
    for start in range(0, len(wanted), _CHUNK):
        with transaction.atomic():
            records = _locked(wanted[start : start + _CHUNK]).visible_to(by).only(*_STOP_READS)
            stoppable = []
            for record in records:
                if record.is_terminal:
                    outcomes[record.pk] = "already_finished"
                elif not record.may_be_stopped_by(by):
                    outcomes[record.pk] = "not_permitted"
                else:
                    stoppable.append(record)
            outcomes |= wish.write(stoppable)
    return [BulkOutcome(str(id), outcome) for id, outcome in outcomes.items()]
