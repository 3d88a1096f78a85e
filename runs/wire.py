"""How a run looks on the wire, the same for every door.

A plain function: DRF's serializer would copy thirty field objects for each run, and lists and live
feeds write many. ``api.serializers`` describes the same shape for OpenAPI; a test compares them.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from django.db.models import QuerySet

from .models import RunRecord

__all__ = ["for_wire", "get_for_wire", "run_as_dict"]


_PEOPLE = ("owner", "worker", "stop_requested_by", "stop_escalated_by")


def for_wire(runs: QuerySet[RunRecord], *, with_input: bool = True) -> QuerySet[RunRecord]:
    """Make a query bring along all that ``run_as_dict`` reads; else each run costs five more."""
    return runs.select_related(*_PEOPLE, *(("input_record",) if with_input else ()))


def get_for_wire(id: uuid.UUID) -> RunRecord:
    """Return a run, as it is now, for the wire; in one query.

    Raises:
        RunRecord.DoesNotExist: there is none.
    """
    return for_wire(RunRecord.objects.all()).get(pk=id)


def run_as_dict(run: RunRecord, *, with_input: bool = True) -> dict[str, Any]:
    """Return the run as it goes over the wire; for whoever looks often, without its input."""
    return {
        "id": str(run.pk),
        "agent": run.agent,
        **({"input": run.input_record.value} if with_input else {}),
        "status": str(run.shown_status),
        "result": run.result,
        "partial_result": run.partial_result,
        "error": run.error,
        "owner": run.owner.get_username(),
        "parent": str(run.parent_id) if run.parent_id else None,
        "root": str(run.root_id),
        "priority": run.priority,
        "attempt": run.attempt,
        "created_at": _instant(run.created_at),
        "started_at": _instant(run.started_at),
        "finished_at": _instant(run.finished_at),
        "in_flight": run.in_flight,
        "usage": {
            "llm_calls": run.llm_calls,
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "estimated": run.usage_estimated,
        },
        "last_seq": run.last_seq,
        "log_removed_at": _instant(run.log_removed_at),
        "worker": run.worker.name if run.worker else None,
        "stop": _receipt(run) if run.stop_requested else None,
    }


def _receipt(run: RunRecord) -> dict[str, Any]:
    by, escalated_by = run.stop_requested_by, run.stop_escalated_by
    return {
        "mode": run.stop_mode,
        "reason": run.stop_reason,
        "via": run.stop_via,
        "requested_by": by.get_username() if by else None,
        "requested_at": _instant(run.stop_requested_at),
        "escalated_by": escalated_by.get_username() if escalated_by else None,
        "escalated_at": _instant(run.stop_escalated_at),
        "acknowledged_at": _instant(run.stop_acknowledged_at),
        "observed_at": _instant(run.stop_observed_at),
        "finished_first": run.stop_finished_first,
        "calls_started_after_acknowledgement": run.stop_calls_started_after_acknowledgement,
        "root_request": str(run.stop_root_request or run.pk),
        "abandoned": run.stop_abandoned,
        "cleanup_error": run.stop_cleanup_error,
    }


def _instant(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat() if at is not None else None
