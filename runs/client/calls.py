"""Start, read and stop runs from the site's own code."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from agents.cancellation import StopMode
from runs.actions import starting, stopping
from runs.actions.starting import Start, Started
from runs.models import RunRecord, StopVia
from runs.wire import for_wire, get_for_wire

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

__all__ = [
    "Run",
    "Start",
    "Started",
    "aget",
    "astart",
    "astart_many",
    "astop",
    "get",
    "id_of",
    "start",
    "start_many",
    "stop",
]

#: A run, or its id; a text that is no id is the id of no run.
Run = RunRecord | uuid.UUID | str


def start(
    agent: str,
    input: Mapping[str, Any] | None = None,
    *,
    owner: User,
    priority: int | None = None,
    idempotency_key: str | None = None,
    limits: Mapping[str, float | None] | None = None,
) -> RunRecord:
    """Queue a run of ``agent`` for ``owner``, and return its record.

    In a transaction the run starts with the commit, and a rollback leaves nothing of it. The same
    ``idempotency_key`` with the same arguments returns the run that there is. ``limits`` has
    ``deadline_seconds``, ``idle_seconds`` and ``call_seconds``, or some of them; None is no limit.
    Priority and limits are those that ``owner`` may choose.

    Raises:
        agents.exceptions.AgentNotFound: there is no such agent.
        agents.exceptions.InvalidInput: the input does not fit the agent, or an argument can't be
            one; ``fields`` says where.
        runs.exceptions.InputTooLarge: more than ``RUNS_MAX_INPUT_BYTES``.
        runs.exceptions.QuotaExceeded: of the owner's; ``code``, ``used`` and ``allowed`` say which.
        runs.exceptions.PriorityNotPermitted, LimitsNotPermitted: ``owner`` may not choose that.
        runs.exceptions.IdempotencyMismatch: the key was used with other arguments.
    """
    run, is_new = starting.start_run(
        agent,
        {} if input is None else input,
        owner=owner,
        priority=priority,
        idempotency_key=idempotency_key,
        limits=limits or {},
    )
    return run if is_new else get_for_wire(run.pk)


async def astart(
    agent: str,
    input: Mapping[str, Any] | None = None,
    *,
    owner: User,
    priority: int | None = None,
    idempotency_key: str | None = None,
    limits: Mapping[str, float | None] | None = None,
) -> RunRecord:
    """Do as ``start`` does.

    A caller that is cancelled while it awaits this may have started the run: with an
    ``idempotency_key`` it may ask again.
    """
    return await sync_to_async(start)(
        agent,
        input,
        owner=owner,
        priority=priority,
        idempotency_key=idempotency_key,
        limits=limits,
    )


def start_many(starts: Sequence[Start], *, owner: User) -> list[Started]:
    """Queue up to 1,000 runs for ``owner``, in one transaction; return what became of each.

    ``Start(agent, input, idempotency_key, priority, limits)`` has what ``start`` takes. An outcome
    has a ``run``, and ``is_new``; or it has an ``error``, which ``start`` would raise, and the
    other runs start.

    Raises:
        ValueError: there are more.
    """
    return [
        replace(one, run=get_for_wire(one.run.pk)) if one.run and not one.is_new else one
        for one in starting.start_many(starts, owner=owner)
    ]


async def astart_many(starts: Sequence[Start], *, owner: User) -> list[Started]:
    """Do as ``start_many`` does; what ``astart`` says of a cancellation holds here, too."""
    return await sync_to_async(start_many)(starts, owner=owner)


def get(run: Run, *, visible_to: User | AnonymousUser | None = None) -> RunRecord:
    """Read a run as it is now, if ``visible_to`` may see it.

    Raises:
        RunRecord.DoesNotExist: there is no such run, or ``visible_to`` may not see it.
    """
    runs = RunRecord.objects.all()
    if visible_to is not None:
        runs = runs.visible_to(visible_to)
    return for_wire(runs).get(pk=id_of(run))


async def aget(run: Run, *, visible_to: User | AnonymousUser | None = None) -> RunRecord:
    """Do as ``get`` does."""
    return await sync_to_async(get)(run, visible_to=visible_to)


def stop(
    run: Run,
    *,
    by: User | None = None,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
    abort_after: float | None = None,
    abandon_after: float | None = None,
) -> RunRecord:
    """Ask a run, and all runs below it, to stop; return its record as it is then.

    A queued run is over when this returns, and no call of a run in this process starts after that;
    in a transaction, after the commit. A second stop changes nothing unless it is harder, or plans
    to become harder earlier: ``abort_after`` and ``abandon_after`` are seconds from now.

    Raises:
        RunRecord.DoesNotExist: there is no such run, or ``by`` may not see it.
        runs.exceptions.StopNotPermitted: ``by`` may see the run, but not stop it.
        runs.exceptions.RunAlreadyFinished: the run is over; ``run`` is its record.
        ValueError: no such mode, the reason is too long, or the plan is none.
    """
    result = stopping.request_stop(
        id_of(run),
        via=StopVia.API,
        by=by,
        mode=mode,
        reason=reason,
        abort_after=abort_after,
        abandon_after=abandon_after,
        check_permission=by is not None,
    )
    # Read now whom it names: async code can't query when it uses these.
    _ = (result.run.stop_requested_by, result.run.stop_escalated_by)
    return result.run


async def astop(
    run: Run,
    *,
    by: User | None = None,
    mode: StopMode | str = StopMode.GRACEFUL,
    reason: str = "",
    abort_after: float | None = None,
    abandon_after: float | None = None,
) -> RunRecord:
    """Do as ``stop`` does."""
    return await sync_to_async(stop)(
        run,
        by=by,
        mode=mode,
        reason=reason,
        abort_after=abort_after,
        abandon_after=abandon_after,
    )


def id_of(run: Run) -> uuid.UUID:
    if isinstance(run, RunRecord):
        return run.pk
    if isinstance(run, uuid.UUID):
        return run
    try:
        return uuid.UUID(run)
    except ValueError:
        raise RunRecord.DoesNotExist(f"No run has the id {run!r}.") from None
