"""Log the stop requests of people in the admin's own log, through whichever door they came.

A run's receipt names the first user who requested a stop and the last who escalated it. It is
deleted with the run; the log stays. The log has one entry for each accepted request. Runs below,
which stop with that run, get none, and a repeated request that changed nothing gets none. An entry
needs a user: stops without one (the command line without ``--user``, a parent that gives up, a
budget) are on the receipt only.
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
    """Return the entry of each run that ``by`` asks to stop; None without a user."""
    if by is None:
        return None
    id = uuid_as_text("id")
    row = {
        "action_time": timezone.now(),
        "user": by.pk,
        "content_type": ContentType.objects.get_for_model(RunRecord).pk,
        "object_id": Expression(id),
        # The same text as str(run).
        "object_repr": Expression(f"SUBSTR(agent || ' ' || {id}, 1, {_MOST_REPR_CHARACTERS})"),
        "action_flag": CHANGE,
        "change_message": stop_message(via, mode, reason),
    }
    return Insertion(LogEntry, row)


def stop_message(via: StopVia, mode: StopMode, reason: str) -> str:
    """Return the text of an entry. It is stored, and so not translated.

    It must not start with ``[``: the admin would read it as its own JSON.
    """
    words = f"Asked to stop. Mode: {mode}. Via: {via}."
    return f"{words} Reason: {reason}" if reason else words
