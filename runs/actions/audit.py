"""Who asked for which stop, kept in Django's own log of the admin, whatever door it came through.

A run's receipt names the first who asked and the last who escalated, and goes when the run is
deleted; the log keeps each accepted request. It has an entry for every run that a person asked
for: none for the runs below, which stop with it, and none for a request that was repeated and
changed nothing. An entry must belong to a user: stops without one (the command line without
``--user``, a parent that gives up, a budget) are on the receipt only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from agents.cancellation import StopMode
from runs.db.statements import Expression, Insertion, uuid_as_text
from runs.models import RunRecord, StopVia

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["stop_entry", "stop_message"]

_MOST_REPR_CHARACTERS = 200  # LogEntry's column


def stop_entry(by: User | None, via: StopVia, mode: StopMode, reason: str) -> Insertion | None:
    """Return the entry that each run gets which ``by`` asked to stop; None without a person."""
    if by is None:
        return None
    id = uuid_as_text("id")
    row = {
        "action_time": timezone.now(),
        "user": by.pk,
        "content_type": ContentType.objects.get_for_model(RunRecord).pk,
        "object_id": Expression(id),
        # As str(run) has it.
        "object_repr": Expression(f"SUBSTR(agent || ' ' || {id}, 1, {_MOST_REPR_CHARACTERS})"),
        "action_flag": CHANGE,
        "change_message": stop_message(via, mode, reason),
    }
    return Insertion(LogEntry, row)


def stop_message(via: StopVia, mode: StopMode, reason: str) -> str:
    """Return the sentence of an entry; not translated, since it is stored.

    It must not begin with ``[``: the admin would take it for its own JSON.
    """
    words = f"Asked to stop. Mode: {mode}. Via: {via}."
    return f"{words} Reason: {reason}" if reason else words
