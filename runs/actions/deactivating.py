"""Stop the runs of a user who is deactivated, unless ``RUNS_STOP_INACTIVE_OWNERS`` is off.

A save of the user does it at once, after its commit. ``QuerySet.update()`` and SQL tell no code. So
each process with a reaper also looks for such runs, every third of a lease.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models.signals import post_save

from runs.conf import conf
from runs.identity import actors
from runs.models import StopVia

from .stopping import stop_runs_of_inactive

__all__ = ["connect", "stop_all"]

logger = logging.getLogger(__name__)


def connect() -> None:
    """Watch the saves of users; again does no harm."""
    users = get_user_model()
    post_save.connect(_saved, sender=users, dispatch_uid="runs.actions.deactivating")


def stop_all() -> int:
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
    transaction.on_commit(stop, robust=True)
