"""Write the audit log. Each function adds an entry in the caller's transaction, if there is one.

``runs.actions.audit`` adds the entries of runs; those of stops in the statement of the stop.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db import DatabaseError
from django.utils import timezone

from runs.conf import conf
from runs.db.alias import alias, atomic, connection
from runs.db.statements import as_parameter

from . import actors
from .actors import Actor
from .models import MAX_SUBJECT_LENGTH, Act, AuditEntry

__all__ = ["note", "note_failure", "remove_old"]

logger = logging.getLogger(__name__)

_MOST_REMOVED = 20_000  # at a time; the worker's heart waits for it

_COUNT = """
INSERT INTO identity_auditentry (at, act, actor_id, actor, address, subject, detail, count)
VALUES (%s, 'sign_in_failed', %s, %s, %s, '', '', 1)
ON CONFLICT (actor, address, at) WHERE act = 'sign_in_failed'
DO UPDATE SET count = identity_auditentry.count + 1
"""


def note(act: Act, *, subject: str = "", detail: str = "", by: Actor | None = None) -> None:
    """Add an entry; by default the user of the current request did it."""
    by = by or actors.current()
    AuditEntry.objects.create(
        act=act,
        actor_id=by.id,
        actor=by.name,
        address=by.address,
        subject=subject[:MAX_SUBJECT_LENGTH],
        detail=detail,
    )


def note_failure(by: Actor) -> None:
    """Count a failed sign-in, in one entry for each account, address and minute.

    ``by`` has no name if no user has the name that was tried. Otherwise a client could fill the
    table by inventing names; and people type passwords into the wrong field.
    """
    minute = timezone.now().replace(second=0, microsecond=0)
    id = None if by.id is None else str(by.id)
    values = [as_parameter(minute), id, by.name, by.address]
    try:
        with atomic(), connection.cursor() as cursor:
            cursor.execute(_COUNT, values)
    except DatabaseError as error:  # the sign-in has failed anyway
        logger.warning("a failed sign-in was not recorded (%s)", type(error).__name__)


def remove_old() -> int:
    """Remove entries older than ``AUDIT_KEEP_DAYS``, some of them; return how many."""
    if not conf().audit_keep_days:
        return 0
    before = timezone.now() - timedelta(days=conf().audit_keep_days)
    old = AuditEntry.objects.filter(at__lt=before).order_by("at", "id")
    with atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:  # the trigger lets nothing else delete
                cursor.execute("SELECT set_config('halting.audit_retention', 'on', true)")
        some = AuditEntry.objects.filter(pk__in=old.values("pk")[:_MOST_REMOVED])
        return some._raw_delete(alias())
