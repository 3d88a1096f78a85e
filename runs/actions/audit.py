"""Who asked for which stop, kept in Django's own log of the admin, whatever door it came through.

A run's receipt names the first who asked and the last who escalated, and goes when the run is
deleted; the log keeps each accepted request. It has an entry for every run that a person asked
for: none for the runs below, which stop with it, and none for a request that was repeated and
changed nothing. An entry must belong to a user: stops without one (the command line without
``--user``, a parent that gives up, a budget) are on the receipt only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from agents.cancellation import StopMode
from runs.db.statements import Expression, Insertion, insert_rows
from runs.models import RunRecord, StopVia

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["log_stops", "stop_entry", "stop_message"]

_FIELDS = (
    *("action_time", "user", "content_type", "object_id"),
    *("object_repr", "action_flag", "change_message"),
)
_MOST_REPR_CHARACTERS = 200  # LogEntry's column


def log_stops(
    records: Sequence[RunRecord], *, by: User | None, via: StopVia, mode: StopMode, reason: str
) -> None:
    """Note that ``by`` asked each of these runs to stop; in the caller's transaction."""
    if by is None or not records:
        return
    kind = ContentType.objects.get_for_model(RunRecord).pk
    message = stop_message(via, mode, reason)
    now = timezone.now()
    # One statement for all: LogEntry's own manager saves each by itself, or asks for a queryset.
    insert_rows(
        LogEntry,
        _FIELDS,
        [
            (now, by.pk, kind, str(run.pk), str(run)[:_MOST_REPR_CHARACTERS], CHANGE, message)
            for run in records
        ],
    )


def stop_entry(by: User, *, via: StopVia, mode: StopMode, reason: str) -> Insertion:
    """Return the entry for one run, to be inserted by the statement that updates it."""
    kind = ContentType.objects.get_for_model(RunRecord).pk
    name = Expression("agent || ' ' || CAST(id AS text)")  # as str(run) has it
    values = (timezone.now(), by.pk, kind, Expression("CAST(id AS text)"), name, CHANGE)
    row = dict(zip(_FIELDS, (*values, stop_message(via, mode, reason)), strict=True))
    return Insertion(LogEntry, row)


def stop_message(via: StopVia, mode: StopMode, reason: str) -> str:
    """Return the sentence of an entry; not translated, since it is stored.

    It must not begin with ``[``: the admin would take it for its own JSON.
    """
    words = f"Asked to stop. Mode: {mode}. Via: {via}."
    return f"{words} Reason: {reason}" if reason else words
