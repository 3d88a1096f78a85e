"""Ask runs to stop: the wish is written, then tokens are tripped.

Doors reach these through ``services``. A stop and the birth of a child meet at the parent's row, a
stop and an ending at the run's own: each sees the other or comes first.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from agents.cancellation import StopCause, StopMode
from agents.trace import Event
from runs import events, metrics, transitions
from runs.db.query_plans import by_key
from runs.db.statements import read_keys, update_and_read, update_insert_and_read
from runs.db.transactions import in_transaction
from runs.delivery import local_runs, notify
from runs.delivery.stop_message import StopDelivery, StopRequest
from runs.exceptions import ModeNotAvailable, RunAlreadyFinished, StopNotPermitted
from runs.models import MAX_REASON_LENGTH, RunQuerySet, RunRecord, StopVia
from runs.status import Status
from runs.transitions import Change
from runs.wire import get_for_wire

from . import audit

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "AVAILABLE_MODES",
    "BulkOutcome",
    "BulkWord",
    "StopResult",
    "meet_request",
    "meet_requests",
    "request_stop",
    "stop_children",
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
        RunRecord.DoesNotExist: there is no such run, or ``by`` may not see it.
        StopNotPermitted: ``by`` may see it, and not stop it. Neither of these two is asked with
            ``check_permission`` False.
        RunAlreadyFinished: it is over.
        ModeNotAvailable: that rung does not exist yet.
        ValueError: no such mode, or the reason is too long.
    """
    wish = _Wish(mode, reason, via, by)

    def ask() -> Accepted:
        # Most are asked of runs that are under way, once: locked, read and written in one step.
        written = wish.write_into(run)
        record = written or _locked([run]).get()
        if check_permission:
            _check_permission(record, by)
        if record.is_terminal:
            raise RunAlreadyFinished(record)
        return (wish.spread([record], []) if written else wish.write([record]))[run]

    if check_permission and wish.write_at_once(run):
        outcome: Accepted = "accepted"
    else:
        outcome = in_transaction(ask)
    return StopResult(get_for_wire(run), outcome)


def _check_permission(record: RunRecord, by: User | None) -> None:
    if by is not None and not record.may_be_seen_by(by):
        raise RunRecord.DoesNotExist
    if by is None or not record.may_be_stopped_by(by):
        raise StopNotPermitted("You may see this run, but not stop it.")


def _locked(ids: Sequence[uuid.UUID]) -> RunQuerySet:
    return (
        # no_key: else a child that is being born below one of these waits for us with its caller's
        # row locked, and we for that. Prefetched, not joined: see news.
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
        self._update([record.pk for record in fresh], self.via, F("pk"))
        return self.spread(fresh, again)

    def write_into(self, run: uuid.UUID) -> RunRecord | None:
        """Write it into one run if that is active and was not asked before; return its record.

        The record is locked then, and must be ``spread``.
        """
        values = self._values(self.via, run)
        wanted = "id = %s AND status IN ('queued', 'running') AND stop_requested_at IS NULL"
        return update_and_read(RunRecord, wanted, values, [run], ("id", *_STOP_READS))

    def write_at_once(self, run: uuid.UUID) -> bool:
        """Do all that there is to do, in one statement, for the commonest wish of all.

        An owner's, for a run that is under way, was not asked before, and has called nobody. Else,
        and where the database can't do it, this does nothing and returns False.
        """
        if self.by is None or not self.by.is_active or connection.vendor != "postgresql":
            return False
        record = update_insert_and_read(
            RunRecord,
            _AT_ONCE,
            self._values(self.via, run),
            [run, self.by.pk],
            ("id", *_STOP_READS),
            audit.stop_entry(self.by, via=self.via, mode=self.mode, reason=self.reason),
        )
        if record is None:
            return False
        delivery = StopDelivery.of(record, self._request(self.via, run))
        self._announce([delivery], [(run, record.root_id)])
        return True

    def spread(
        self, fresh: Sequence[RunRecord], again: Sequence[RunRecord]
    ) -> dict[uuid.UUID, Accepted]:
        """Write it below records that it was just written into, and tell all whom it concerns.

        ``again`` are those that were asked to stop before. Says what came of it for each.
        """
        self._written.clear()  # of a transaction that was rolled back
        outcomes: dict[uuid.UUID, Accepted] = {record.pk: "already_stopping" for record in again}
        # Who asked first may not have come to trip the token yet.
        before = [*again, *_stopping_in({record.root_id for record in again})] if again else []
        due = {record.pk: StopDelivery.of(record) for record in before}
        audit.log_stops(fresh, by=self.by, via=self.via, mode=self.mode, reason=self.reason)
        for record in fresh:
            due[record.pk] = StopDelivery.of(record, self._request(self.via, record.pk))
            outcomes[record.pk] = "accepted"
            self._written.append((record.pk, record.root_id))
        concerned = list(fresh)
        # Again until nothing new turns up: a child may be born under a row not yet written to.
        while nearest := _active_below(fresh, apart=due):
            below = list(_locked(list(nearest)).active().only(*_STOP_READS))
            due |= self._write_below(below, nearest)
            concerned += below
        _end_queued([r for r in concerned if r.status == Status.QUEUED], due)
        written, self._written = self._written, []
        self._announce(due.values(), written)
        return outcomes

    def _announce(
        self, due: Collection[StopDelivery], written: Sequence[tuple[uuid.UUID, uuid.UUID]]
    ) -> None:
        transaction.on_commit(lambda: _deliver(due), robust=True)
        transaction.on_commit(lambda: notify.publish_changes(written), robust=True)

    def _write_below(
        self, below: Sequence[RunRecord], nearest: dict[uuid.UUID, uuid.UUID]
    ) -> dict[uuid.UUID, StopDelivery]:
        """Write it into locked runs below those in ``nearest``; return what each is to hear."""
        due = {}
        fresh: dict[uuid.UUID | F, list[uuid.UUID]] = {}
        for record in below:
            ancestor = nearest[record.pk]
            if record.stop_requested:  # by itself, before
                due[record.pk] = StopDelivery.of(record)
            else:
                due[record.pk] = StopDelivery.of(record, self._request(StopVia.PARENT, ancestor))
                self._written.append((record.pk, record.root_id))
                # Most are below a root that was stopped: all of these are one statement.
                above = _ROOT if ancestor == record.root_id else ancestor
                fresh.setdefault(above, []).append(record.pk)
        for above, ids in fresh.items():
            self._update(ids, StopVia.PARENT, above)
        return due

    def _update(self, ids: Sequence[uuid.UUID], via: StopVia, root_request: object) -> None:
        if ids:
            wanted = RunRecord.objects.active().filter(pk__in=ids, stop_requested_at=None)
            wanted.update(**self._values(via, root_request))

    def _values(self, via: StopVia, root_request: object) -> dict[str, Any]:
        return {
            "stop_requested_at": self.at,
            "stop_mode": self.mode,
            "stop_reason": self.reason,
            "stop_via": via,
            "stop_requested_by": self.by.pk if self.by is not None else None,
            "stop_root_request": root_request,
        }

    def _request(self, via: StopVia, root_request: uuid.UUID) -> StopRequest:
        name = self.by.get_username() if self.by is not None else None
        return StopRequest(self.mode, self.reason, str(via), name, self.at, root_request)


def _active_below(
    records: Sequence[RunRecord], *, apart: Container[uuid.UUID]
) -> dict[uuid.UUID, uuid.UUID]:
    """Map the active runs below, those ``apart`` left out, to the nearest of ``records`` above."""
    nearest = {record.pk: record.pk for record in records}
    found: dict[uuid.UUID, uuid.UUID] = {}
    for id, parent in read_keys(_TREES, {record.root_id for record in records}):
        if parent not in nearest:
            continue
        nearest.setdefault(id, nearest[parent])
        if id not in apart:
            found[id] = nearest[parent]
    return found


def _end_queued(records: Sequence[RunRecord], due: Mapping[uuid.UUID, StopDelivery]) -> None:
    """Let runs that nobody has claimed be over at once."""
    log: list[Event] = []
    changes = []
    for record in records:
        request = due[record.pk].request
        end = {"status": Status.STOPPED, "outcome": Status.STOPPED, "started": False}
        words = [
            events.system_event(record, record.last_seq + 1, "stop_requested", request.as_data()),
            events.system_event(record, record.last_seq + 2, "agent_end", end),
        ]
        # A child may have been born between the wish and its being written.
        at = max(request.requested_at, record.created_at)
        fields = {"finished_at": at, "last_seq": words[-1].seq}
        changes.append(Change(record.pk, Status.STOPPED, None, fields))
        log += words
    done = transitions.apply(changes)
    assert done == len(records), "the rows are locked, and they were queued"
    events.append(log)
    for record in records:
        finished = metrics.RUNS_FINISHED.labels(Status.STOPPED, record.agent)
        transaction.on_commit(finished.inc, robust=True)
    transaction.on_commit(lambda: notify.publish_events(log), robust=True)


def _deliver(due: Collection[StopDelivery]) -> None:
    """Trip the tokens of all runs concerned: here directly, elsewhere through their workers.

    Each worker is told of all that it has: a run's children may be on another than itself.
    """
    here = local_runs.trip(due)
    notify.send_stops(delivery for delivery in due if delivery.run not in here)


BulkWord = Literal["accepted", "already_stopping", "already_finished", "not_permitted", "not_found"]
_STOP_READS = (
    *("agent", "attempt", "created_at", "depth", "last_seq", "owner", "root"),
    *("status", "worker"),
    *("stop_mode", "stop_reason", "stop_requested_at", "stop_root_request", "stop_via"),
    "stop_requested_by",
)
_ROOT = F("root_id")
#: A child that is being born has its caller's row locked and marked: this waits, and sees it.
_AT_ONCE = by_key(
    "status = 'running' AND stop_requested_at IS NULL AND NOT has_children AND owner_id = %s"
)
_TREES = (
    "SELECT id, parent_id FROM runs_runrecord WHERE root_id IN {}"
    " AND depth > 0 AND status IN ('queued', 'running') ORDER BY depth"
)
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

    def ask(some: Sequence[uuid.UUID]) -> dict[uuid.UUID, BulkWord]:
        words: dict[uuid.UUID, BulkWord] = {}
        stoppable = []
        for record in _locked(some).visible_to(by).only(*_STOP_READS):
            if record.is_terminal:
                words[record.pk] = "already_finished"
            elif not record.may_be_stopped_by(by):
                words[record.pk] = "not_permitted"
            else:
                stoppable.append(record)
        return words | wish.write(stoppable)

    for start in range(0, len(wanted), _CHUNK):
        outcomes |= in_transaction(partial(ask, wanted[start : start + _CHUNK]))
    return [BulkOutcome(str(id), outcome) for id, outcome in outcomes.items()]


def stop_children(run: uuid.UUID, *, reason: str, but_on: uuid.UUID | None = None) -> int:
    """Ask what a run has started, and goes on elsewhere, to stop on its behalf; return how many.

    What was in the hands of a worker that is lost is left to those who find it, and what is
    ``but_on`` a worker that goes away is being ended there, by nobody's wish. To be repeated:
    either may hand a run back to the queue.
    """
    wish = _Wish(StopMode.GRACEFUL, reason, StopVia.PARENT, None)
    held = Q(worker__isnull=False, worker__lost_at=None) & ~Q(worker=but_on)
    elsewhere = Q(status=Status.QUEUED) | held
    children = RunRecord.objects.active().filter(elsewhere, parent=run, stop_requested_at=None)
    ids = list(children.values_list("pk", flat=True))

    def ask(some: Sequence[uuid.UUID]) -> None:
        wish.write(list(_locked(some).active().only(*_STOP_READS)))

    for start in range(0, len(ids), _CHUNK):
        in_transaction(partial(ask, ids[start : start + _CHUNK]))
    return len(ids)


def meet_request(run: local_runs.ActiveRun) -> None:
    """Trip the token of a run of this process if its record says that it is to stop.

    Or that it is this worker's no more: then nobody here may go on with it.
    """
    record = (
        RunRecord.objects.select_related("stop_requested_by")
        .filter(pk=run.id, worker=run.worker, attempt=run.attempt, status=Status.RUNNING)
        .filter(worker__lost_at=None)
        .first()
    )
    if record is None:
        run.token.request(reason="the claim was lost", cause=StopCause.SHUTDOWN)
    elif record.stop_requested:
        stopping = [record, *_stopping_in([record.root_id])]
        local_runs.trip([StopDelivery.of(one) for one in stopping])


def meet_requests(worker: uuid.UUID) -> None:
    """Trip the tokens of a worker's runs that were asked to stop, and that nobody has told of it.

    Of all in one go, however many they are: the heart that asks for it has a lease to renew.
    """
    asked = RunRecord.objects.filter(
        worker=worker,
        status=Status.RUNNING,
        stop_requested_at__isnull=False,
        stop_acknowledged_at=None,
    )
    roots = {root for id, root in asked.values_list("pk", "root_id") if _has_met_none(id)}
    if roots:
        stopping = _stopping_in(roots).only(*_STOP_READS)
        # Those that are here: for others trip() would wait for a claim under way.
        local_runs.trip(
            [StopDelivery.of(one) for one in stopping if local_runs.get(one.pk) is not None]
        )


def _has_met_none(run: uuid.UUID) -> bool:
    entry = local_runs.get(run)
    return entry is not None and entry.token.cause is not StopCause.WISH


def _stopping_in(roots: Collection[uuid.UUID]) -> RunQuerySet:
    """Return the active runs of these trees that were asked to stop.

    Whoever trips a token trips those of all below it, whose logs tell of their own requests.
    """
    return (
        RunRecord.objects.active()
        .select_related("stop_requested_by")
        .filter(root__in=roots, stop_requested_at__isnull=False)
    )
