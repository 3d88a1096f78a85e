"""Ask runs to stop. One path: for one run, many, a tree, the admin, a parent, a repeated request.

1. ``authorize_stop`` decides whether a person may stop a run.
2. ``_write`` writes the request into the runs, into all runs below them, and into the audit log
   (``stop_rows``). It ends those among them that are queued, and those that are abandoned.
3. After the commit ``delivery.stops.deliver`` trips the tokens of this process's runs, and sends a
   message to the workers of the others.

A stop only ever becomes harder: by another request, or as the first one has planned
(``escalate_due``). Both take the same path.

A stop and the start of a child lock the parent's row; a stop and an ending lock the run's own row.
So the second of the two sees what the first one wrote.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from django.db.models import Q

from agents.cancellation import StopMode
from runs.db.alias import atomic, connection, on_commit
from runs.db.clock import database_now, now_sql
from runs.db.statements import Expression, as_parameter, update_rows
from runs.db.transactions import in_transaction, is_away, is_locked
from runs.db.users import has_column
from runs.delivery import notify, stops
from runs.delivery.stop_message import StopDelivery, StopRequest
from runs.exceptions import RunAlreadyFinished, StopNotPermitted
from runs.models import RunQuerySet, RunRecord, StopVia
from runs.signals import receivers, stop_requested
from runs.status import Status
from runs.wire import BulkWord, get_for_list, get_for_wire

from .abandoning import abandon
from .finishing import finish, finish_queued
from .stop_rows import Request, change, mark

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "MOST_DUE",
    "BulkOutcome",
    "StopResult",
    "authorize_stop",
    "escalate_due",
    "request_stop",
    "stop_at_limit",
    "stop_children",
    "stop_many",
    "stop_runs",
    "stop_runs_of_inactive",
]

logger = logging.getLogger(__name__)

Accepted = Literal["accepted", "already_stopping"]

_CHUNK = 500  # runs in a transaction: parameters are limited, and other writers wait for locks
ABORT_AFTER_SECONDS = 10.0  # of a stop at a limit
MOST_DUE = 100  # planned ones in a transaction: a worker's heart writes them


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
    abort_after: float | None = None,
    abandon_after: float | None = None,
    check_permission: bool = True,
) -> StopResult:
    """Ask a run, and all runs below it, to stop; return after the commit.

    When this returns, a queued run is ``stopped`` and the token of a run in this process is
    tripped. The worker of another process gets a message; it also polls within a second. With the
    mode ``abandon`` all of these runs are ``stopped``, wherever their code is.

    A harder mode escalates an earlier stop, whose requester and reason stay. ``abort_after`` and
    ``abandon_after`` are seconds from now after which the stop becomes harder by itself; a plan is
    only ever made or moved earlier. A request that is neither harder nor earlier changes nothing:
    its outcome is ``already_stopping``.

    Raises:
        RunRecord.DoesNotExist: there is no such run, or ``by`` may not see it.
        StopNotPermitted: ``by`` may see the run, but not stop it. With ``check_permission`` False
            no permission is checked.
        RunAlreadyFinished: the run is over.
        ValueError: no such mode, the reason is too long, or the plan is none.
    """
    request = Request.new(mode, reason, via, by, abort_after, abandon_after)

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
    return StopResult(get_for_wire(run, by), outcome)


def stop_many(
    ids: Iterable[uuid.UUID],
    *,
    by: User,
    via: StopVia,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
    abort_after: float | None = None,
    abandon_after: float | None = None,
) -> list[BulkOutcome]:
    """Ask many runs to stop; return one outcome for each, in the order given, without repeats.

    As ``request_stop``. A run that ``by`` may not see is ``not_found``. A run below another one
    that was asked to stop is ``already_stopping``.
    """
    request = Request.new(mode, reason, via, by, abort_after, abandon_after)
    wanted = list(dict.fromkeys(ids))
    outcomes: dict[uuid.UUID, BulkWord] = dict.fromkeys(wanted, "not_found")
    for start in range(0, len(wanted), _CHUNK):
        permitted = []
        some = RunRecord.objects.only("owner", "status").filter(
            pk__in=wanted[start : start + _CHUNK]
        )
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
    request = Request.new(StopMode.GRACEFUL, reason, StopVia.PARENT, None)
    held = Q(worker__isnull=False, worker__lost_at=None) & ~Q(worker=but_on)
    elsewhere = Q(status=Status.QUEUED) | held
    children = RunRecord.objects.active().filter(elsewhere, parent=run, stop_requested_at=None)
    ids = list(children.values_list("pk", flat=True))
    return _write_all(request, ids)


def stop_runs_of_inactive(
    owner: Any = None, *, by: User | None = None, via: StopVia = StopVia.ACCOUNT
) -> int:
    """Ask the active runs of users who are deactivated to stop; return how many were asked.

    ``owner`` is the key of one of these users; by default it is for all of them. ``by`` is who
    deactivated them, if that is known.
    """
    runs = RunRecord.objects.all() if owner is None else RunRecord.objects.filter(owner=owner)
    if has_column("is_active"):  # read once more: a save may have followed
        runs = runs.filter(owner__is_active=False)
    elif owner is None:  # no query tells who they are
        return 0
    return stop_runs(runs, "the owner's account was deactivated", by=by, via=via)


def stop_runs(runs: RunQuerySet, reason: str, *, by: User | None, via: StopVia) -> int:
    """Ask the active ones of ``runs`` to stop, without a check of permission; return how many.

    The runs below stop with them, and say so.
    """
    due = dict(runs.active().filter(stop_requested_at=None).values_list("pk", "parent"))
    ids = [id for id, parent in due.items() if parent not in due]
    request = Request.new(StopMode.GRACEFUL, reason, via, by)
    return _write_all(request, ids)


def stop_at_limit(reached: Mapping[uuid.UUID, Mapping[str, Any]], reason: str) -> None:
    """Ask runs to stop that have reached a limit, which ``reached`` has by run.

    In the caller's transaction, which has locked the runs and read that they were not asked before.
    """
    if not reached:
        return
    rows = [({"stop_limit": limit}, [as_parameter(id)]) for id, limit in reached.items()]
    update_rows(RunRecord, "id = %s", rows)
    after = ABORT_AFTER_SECONDS
    _write(Request.new(StopMode.GRACEFUL, reason, StopVia.BUDGET, None, after), list(reached))


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


def escalate_due(*, limit: int = MOST_DUE) -> int:
    """Make the stops harder whose planned instant has come; return how many runs were due.

    Every process may call it, at the same time: one of them changes each run. A run whose tree
    another transaction has locked is left for the next call, and not counted. If the answer is
    ``limit``, there may be more.
    """
    due = _due(limit)
    if not due:
        return 0
    at = database_now()
    left = 0
    for mode, ids in due.items():
        request = Request.planned(mode, at)
        if not _is_written(request, ids):
            left += sum(not _is_written(request, [id]) for id in ids)
    return sum(map(len, due.values())) - left


def _is_written(request: Request, ids: Sequence[uuid.UUID]) -> bool:
    """Write a planned request; return False, and write nothing, if it meets a lock or is refused.

    One run must not keep the others from being stopped, nor a worker from its heartbeat.
    """
    try:
        with atomic():
            _write(request, ids)
    except Exception as error:
        if is_locked(error):
            logger.info("a planned stop of %d runs meets a lock", len(ids))
        elif is_away(error):
            raise
        else:
            logger.exception("a planned stop of %d runs can't be written", len(ids))
        return False
    return True


def _due(limit: int) -> dict[StopMode, list[uuid.UUID]]:
    """Return the runs whose stop is to become harder now, by the mode; callers first."""
    now, parameters = now_sql()
    with connection.cursor() as cursor:
        cursor.execute(_DUE.format(now=now), [*parameters * 3, limit])
        rows = cursor.fetchall()
    due: dict[StopMode, list[uuid.UUID]] = {}
    for id, mode in rows:
        key = id if isinstance(id, uuid.UUID) else uuid.UUID(id)
        due.setdefault(StopMode(mode), []).append(key)
    return due


# The words of each half are those of a partial index, which hardly any run is in. What is due for
# both goes straight to the harder one.
_DUE = """
SELECT id, mode FROM (
    SELECT id, depth, 'abandon' AS mode FROM runs_runrecord
    WHERE status IN ('queued', 'running') AND stop_abandon_at IS NOT NULL
        AND stop_abandon_at <= {now} AND stop_mode IN ('graceful', 'abort')
    UNION ALL
    SELECT id, depth, 'abort' AS mode FROM runs_runrecord
    WHERE status IN ('queued', 'running') AND stop_abort_at IS NOT NULL
        AND stop_abort_at <= {now} AND stop_mode = 'graceful'
        AND (stop_abandon_at IS NULL OR stop_abandon_at > {now})
) AS due
ORDER BY depth, id LIMIT %s
"""


def _write_all(request: Request, ids: Sequence[uuid.UUID]) -> int:
    """Write ``request`` as ``_write`` does, some runs in each transaction; return how many."""
    for start in range(0, len(ids), _CHUNK):
        in_transaction(partial(_write, request, ids[start : start + _CHUNK]))
    return len(ids)


def _write(request: Request, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, RunRecord | None]:
    """Write ``request`` into active runs and all active runs below them; deliver it on commit.

    In the caller's transaction. Returns the active runs among ``ids``: each with its record as
    written, or None if it was stopped like that before.
    """
    entries = request.entries()
    # A plan is that of an earlier request, and the runs below have that one, too.
    fresh = (
        []
        if request.is_planned
        else mark(request, "id", ids, request.via, Expression("id"), entries)
    )
    written: dict[uuid.UUID, RunRecord | None] = {record.pk: record for record in fresh}
    changes = change(request, "id", [id for id in ids if id not in written], entries)
    written |= {record.pk: record for record in changes.all}
    others = [id for id in ids if id not in written]
    again = list(RunRecord.objects.active().only("root").filter(pk__in=others)) if others else []
    written |= dict.fromkeys(record.pk for record in again)

    level = [*fresh, *changes.all]
    marked = list(fresh)
    trees = {record.root_id for record in level if record.has_children}
    while callers := [record.pk for record in level if record.has_children]:
        # The callers are locked, so they get no more children: a look at each level is enough.
        below = (
            []
            if request.is_planned
            else mark(request, "parent_id", callers, StopVia.PARENT, _OF_PARENT)
        )
        harder = change(request, "parent_id", callers)
        marked += below
        changes.add(harder)
        level = [*below, *harder.all]

    # The process that wrote an earlier request may have died before it delivered it.
    trees |= {record.root_id for record in (*again, *changes.earlier)}
    due = [*(stops.committed_in(trees) if trees else ()), *marked, *changes.harder]
    deliveries = {record.pk: StopDelivery.of(record) for record in due}
    on_commit(lambda: stops.deliver(deliveries.values()), robust=True)
    asked = [*marked, *changes.harder]
    on_commit(partial(_tell_site, asked), robust=True)  # before it hears of the ends
    ended = [finish_queued(record) for record in marked if record.status == Status.QUEUED]
    if request.mode is StopMode.ABANDON:
        running = [r for r in (*marked, *changes.harder) if r.status == Status.RUNNING]
        ended += abandon(running, changes.before)
    if ended:
        finish(ended)
    changed = [(record.pk, record.root_id) for record in (*marked, *changes.all)]
    on_commit(lambda: notify.publish_changes(changed), robust=True)
    return written


def _tell_site(runs: Iterable[RunRecord]) -> None:
    receivers.send(stop_requested, ({"run": run, "stop": StopRequest.of(run)} for run in runs))


#: A run below names the same run as its caller: the one on which the stop was requested.
_OF_PARENT = Expression(
    "(SELECT stop_root_request FROM runs_runrecord above WHERE above.id = runs_runrecord.parent_id)"
)
