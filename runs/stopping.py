"""Ask runs to stop: the wish is written, then tokens are tripped.

Doors reach these through ``services``. A stop and the birth of a child meet at the parent's row, a
stop and an ending at the run's own: each sees the other or comes first.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agents.cancellation import StopCause, StopMode

from . import active, audit, events, live, transitions
from .active import StopRequest
from .exceptions import ModeNotAvailable, RunAlreadyFinished, StopNotPermitted
from .models import MAX_REASON_LENGTH, RunQuerySet, RunRecord, StopVia
from .status import Status
from .transitions import Change
from .wire import get_for_wire

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "AVAILABLE_MODES",
    "BulkOutcome",
    "BulkWord",
    "StopResult",
    "meet_request",
    "request_stop",
    "stop_many",
]

#: The rungs that exist so far. The others have their place in token, guard and record.
AVAILABLE_MODES = (StopMode.GRACEFUL,)

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
    return StopResult(get_for_wire(run), outcome)


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
        self._written: list[tuple[uuid.UUID, uuid.UUID]] = []  # runs, each with its root

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
        audit.log_stops(fresh, by=self.by, via=self.via, mode=self.mode, reason=self.reason)
        for record in fresh:
            requests[record.pk] = self._request(self.via, record.pk)
            outcomes[record.pk] = "accepted"
            self._written.append((record.pk, record.root_id))
        # Again until nothing new turns up: a child may be born under a row not yet written to.
        while below := _active_below(fresh, apart=requests):
            requests |= self._write_below(below)
        for record in fresh:
            if record.status == Status.QUEUED:
                _end_queued(record, requests[record.pk])
        written, self._written = self._written, []
        transaction.on_commit(lambda: _deliver(records, requests), robust=True)
        transaction.on_commit(lambda: live.publish_changes(written), robust=True)
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
                self._written.append((record.pk, record.root_id))
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
