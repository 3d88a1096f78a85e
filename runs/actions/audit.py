"""Log stops and changes of limits, of all doors alike: in the audit log and in the admin's own.

A run's receipt names the first user who requested a stop and the last who escalated it. It is
deleted with the run; the logs stay. Each has one entry for each accepted request, and so for each
mode that a person asks for. Runs below, which stop with that run, get none, and neither does a
repeated request that changed nothing, nor a mode that an earlier request has planned.

The audit log outlives the user. It also has the stops without a user, such as those of the command
line without ``--user``. The admin's log shows a run's history there, and goes with the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.utils import timezone

from agents.cancellation import StopMode
from runs.db.alias import alias, is_here
from runs.db.statements import Expression, Insertion, uuid_as_text
from runs.db.users import username_of
from runs.identity import audit
from runs.identity.actors import Actor, current_address
from runs.identity.models import MAX_SUBJECT_LENGTH, Act, AuditEntry
from runs.models import RunRecord, StopVia

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["note_limits", "stop_entries", "stop_message"]

_MOST_REPR_CHARACTERS = 200  # LogEntry's column
CHANGE = 2  # LogEntry's action_flag


def stop_entries(
    by: User | None,
    via: StopVia,
    mode: StopMode,
    reason: str,
    after: Mapping[StopMode, float] | None = None,
) -> tuple[Insertion, ...]:
    """Return the entries of each run that ``by`` asks to stop; the admin's log needs a user.

    ``after``: the seconds after which the stop becomes harder by itself.
    """
    now = timezone.now()
    id = uuid_as_text("id")
    message = stop_message(via, mode, reason, after)
    entry = Insertion(
        AuditEntry,
        {
            "at": now,
            "act": Act.STOP,
            "actor_id": by.pk if by is not None else None,
            "actor": username_of(by),
            "address": current_address(),
            # The same text as str(run).
            "subject": Expression(f"SUBSTR(agent || ' ' || {id}, 1, {MAX_SUBJECT_LENGTH})"),
            "detail": message,
            "count": 1,
        },
    )
    admin_log = _admin_log()
    if by is None or admin_log is None:
        return (entry,)
    row = {
        "action_time": now,
        "user": by.pk,
        "content_type": _content_type().pk,
        "object_id": Expression(id),
        "object_repr": Expression(f"SUBSTR(agent || ' ' || {id}, 1, {_MOST_REPR_CHARACTERS})"),
        "action_flag": CHANGE,
        "change_message": message,
    }
    return (entry, Insertion(admin_log, row))


def note_limits(run: RunRecord, by: User, changes: Mapping[str, tuple[object, object]]) -> None:
    """Log that ``by`` has changed limits of a run: name -> before, after."""
    words = ", ".join(f"{name}: {before} -> {after}" for name, (before, after) in changes.items())
    message = f"Changed limits. {words}"
    actor = Actor.of(by, current_address())
    audit.note(Act.LIMITS, subject=str(run), detail=message, by=actor)
    if (admin_log := _admin_log()) is not None:
        admin_log._default_manager.using(alias()).create(
            user=by,
            content_type=_content_type(),
            object_id=str(run.pk),
            object_repr=str(run)[:_MOST_REPR_CHARACTERS],
            action_flag=CHANGE,
            change_message=message,
        )


def _admin_log() -> type[Model] | None:
    """Return the model of the admin's log; None in a site that has none beside the runs."""
    if not apps.is_installed("django.contrib.admin"):
        return None
    from django.contrib.admin.models import LogEntry  # not importable without the app

    return LogEntry if is_here(LogEntry) else None


def _content_type() -> ContentType:
    return ContentType.objects.db_manager(alias()).get_for_model(RunRecord)


def stop_message(
    via: StopVia, mode: StopMode, reason: str, after: Mapping[StopMode, float] | None = None
) -> str:
    """Return the text of an entry. It is stored, and so not translated.

    It must not start with ``[``: the admin would read it as its own JSON.
    """
    plan = "".join(f" Planned: {rung} after {s:g} s." for rung, s in (after or {}).items())
    words = f"Asked to stop. Mode: {mode}.{plan} Via: {via}."
    return f"{words} Reason: {reason}" if reason else words
