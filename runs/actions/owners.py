"""Stop the runs of owners who are deactivated or deleted, and runs that are deleted themselves.

A save of a user who is deactivated stops the runs at once, after its commit, unless
``RUNS_STOP_INACTIVE_OWNERS`` is off. ``QuerySet.update()`` and SQL tell no code. So each process
with a reaper also looks for such runs, every third of a lease.

Before it deletes, the admin asks the runs to stop, and waits until they are over. ``delete()`` of
the ORM can't wait: its transaction asks them to stop, and at its commit their tokens are tripped.
SQL tells no code: a worker notices by itself that a run has no record any more
(``delivery.own_runs``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Model, QuerySet
from django.db.models.signals import post_save, pre_delete

from runs.conf import conf
from runs.db.alias import on_commit
from runs.identity import actors
from runs.models import RunRecord, StopVia

from .stopping import stop_runs, stop_runs_of_inactive

__all__ = ["WAIT_SECONDS", "connect", "stop_all_of_inactive", "stop_runs_of", "wait_until_over"]

logger = logging.getLogger(__name__)

#: How long a request waits for runs to stop.
WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.1


def connect() -> None:
    """Watch the saves of users, and the deletions of runs; again does no harm."""
    users = get_user_model()
    post_save.connect(_saved, sender=users, dispatch_uid="runs.actions.owners.saved")
    pre_delete.connect(_deleted, sender=RunRecord, dispatch_uid="runs.actions.owners.deleted")


def stop_all_of_inactive() -> int:
    """Stop the runs of all deactivated users; return how many were asked to."""
    count = stop_runs_of_inactive() if conf().stop_inactive_owners else 0
    if count:
        logger.info("asked %d runs of deactivated users to stop", count)
    return count


def _saved(instance: Any, created: bool, raw: bool, update_fields: Any, **_: Any) -> None:
    is_about_it = update_fields is None or "is_active" in update_fields
    if instance.is_active or created or raw or not is_about_it or not conf().stop_inactive_owners:
        return
    by = actors.current_user()
    # Only the admin lets one user deactivate another.
    via = StopVia.ADMIN if by is not None else StopVia.ACCOUNT
    stop = partial(stop_runs_of_inactive, instance.pk, by=by, via=via)
    on_commit(stop, robust=True)


def stop_runs_of(owners: Collection[Any], *, by: Any) -> int:
    """Ask the active runs of users to stop: ``by`` is about to delete them in the admin.

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
