"""Stop runs before they are deleted, with their owner or by themselves.

The admin asks them to stop, and deletes when they are over. ``delete()`` of the ORM can't wait: its
transaction asks them to stop, and at its commit their tokens are tripped. SQL tells no code: a
worker notices by itself that a run has no record any more (``delivery.lost_claims``).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from django.db.models import Model, QuerySet
from django.db.models.signals import pre_delete

from runs.identity import actors
from runs.models import RunRecord, StopVia

from .stopping import stop_runs

__all__ = ["WAIT_SECONDS", "connect", "stop_runs_of", "wait_until_over"]

#: How long a request waits for runs to stop.
WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.1


def connect() -> None:
    """Watch the deletions of runs; again does no harm."""
    pre_delete.connect(_deleted, sender=RunRecord, dispatch_uid="runs.actions.deleting")


def stop_runs_of(owners: Collection[Any], *, by: Any) -> int:
    """Ask the active runs of users to stop, whom ``by`` is about to delete in the admin.

    Returns how many were asked. The runs below stop with them.
    """
    runs = RunRecord.objects.filter(owner__in=owners)
    return stop_runs(runs, "the owner's account is to be deleted", by=by, via=StopVia.ADMIN)


def wait_until_over(owners: Collection[Any], seconds: float | None = None) -> int:
    """Wait until no run of users is active; return how many are after ``seconds``."""
    end = time.monotonic() + (WAIT_SECONDS if seconds is None else seconds)
    active = RunRecord.objects.active().filter(owner__in=owners)
    while left := active.count():
        if time.monotonic() > end:
            return left
        time.sleep(_POLL_SECONDS)
    return 0


def _deleted(instance: RunRecord, origin: Model | QuerySet[Any], **_: Any) -> None:
    """Ask a run that is to be deleted to stop, in the same transaction."""
    if instance.is_terminal:  # and stays so, however old this copy is
        return
    model = origin.model if isinstance(origin, QuerySet) else type(origin)
    is_alone = issubclass(model, RunRecord)
    reason = "the run was deleted" if is_alone else "the owner's account was deleted"
    by = actors.current_user()
    via = StopVia.ADMIN if by is not None else StopVia.CLI if is_alone else StopVia.ACCOUNT
    stop_runs(RunRecord.objects.filter(pk=instance.pk), reason, by=by, via=via)
