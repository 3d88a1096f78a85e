"""What the commands ask of the database: a user, a run in the shape of the wire, its receipt."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError
from django.db.models import IntegerField, Max, Sum
from django.db.models.functions import Cast
from django.utils import timezone

from runs import wording
from runs.models import RunEvent, RunRecord

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["as_wire", "find_user", "receipt_of", "usage_of_tree"]

_CALLS = ("llm_call", "data_store", "http", "agent_call")


def find_user(name: str) -> User:
    """Return the active user of that name.

    Raises:
        CommandError: there is none, or it may not do anything; exit code 2.
    """
    users = get_user_model()
    user = users.objects.filter(**{users.USERNAME_FIELD: name}).first()
    if user is None:
        hint = " `manage.py create_demo_users` makes it." if name == "demo" else ""
        raise CommandError(f'There is no user "{name}".{hint}', returncode=2)
    if not user.is_active:
        raise CommandError(f'The user "{name}" is not active.', returncode=2)
    return user


def as_wire(record: RunRecord) -> dict[str, Any]:
    """Return what ``wording`` reads of a run, as it goes over the wire."""
    return {
        "id": str(record.pk),
        "status": record.shown_status,
        "started_at": _iso(record.started_at),
        "partial_result": record.partial_result,
        "in_flight": record.in_flight,
        "usage": {
            "llm_calls": record.llm_calls,
            "input_tokens": record.input_tokens,
            "output_tokens": record.output_tokens,
            "estimated": record.usage_estimated,
        },
        "stop": _stop(record) if record.stop_requested else None,
    }


def usage_of_tree(record: RunRecord) -> dict[str, Any]:
    """Return what a run and all below it have used of their models, in the shape of the wire."""
    return RunRecord.objects.filter(root=record.root_id).aggregate(
        llm_calls=Sum("llm_calls"),
        input_tokens=Sum("input_tokens"),
        output_tokens=Sum("output_tokens"),
        estimated=Max(Cast("usage_estimated", IntegerField())),
    )


def _stop(record: RunRecord) -> dict[str, Any]:
    by, escalated_by = record.stop_requested_by, record.stop_escalated_by
    return {
        "mode": record.stop_mode,
        "reason": record.stop_reason,
        "via": record.stop_via,
        "requested_by": by.get_username() if by else None,
        "requested_at": _iso(record.stop_requested_at),
        "escalated_by": escalated_by.get_username() if escalated_by else None,
        "escalated_at": _iso(record.stop_escalated_at),
        "acknowledged_at": _iso(record.stop_acknowledged_at),
        "observed_at": _iso(record.stop_observed_at),
        "finished_first": record.stop_finished_first,
        "calls_started_after_acknowledgement": record.stop_calls_started_after_acknowledgement,
        "root_request": str(record.stop_root_request) if record.stop_root_request else None,
        "abandoned": record.stop_abandoned,
        "cleanup_error": record.stop_cleanup_error,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def receipt_of(record: RunRecord, *, result_below: bool) -> list[str]:
    """Return the receipt of a run in sentences, with what its log says about the stop."""
    run = as_wire(record)
    if run["stop"] is None:
        return []
    later = RunEvent.objects.filter(
        run=record, type__in=_CALLS, ts__gte=record.stop_acknowledged_at or record.created_at
    )
    waited_for = wording.calls_waited_for((event.as_dict() for event in later), run["stop"])
    return wording.receipt_sentences(
        run, waited_for=waited_for, now=timezone.now(), result_below=result_below
    )
