"""A stop request, and its delivery: the message from the requesting process to the worker."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from pydantic import TypeAdapter

from agents.cancellation import StopMode
from runs.models import RunRecord

__all__ = ["StopDelivery", "StopRequest"]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """One stop request as it stands, as in a run's receipt and its ``stop_requested`` events.

    The defaults stand for a request that was not escalated, and for a message of an older release.
    """

    mode: StopMode
    reason: str
    via: str
    requested_by: str | None  # username
    requested_at: datetime
    root_request: uuid.UUID  # the run on which it was requested
    escalated_by: str | None = None  # username
    escalated_at: datetime | None = None
    planned: bool = False  # the plan of an earlier request has escalated it
    limit: dict[str, Any] | None = None  # that was reached

    @classmethod
    def of(cls, record: RunRecord) -> StopRequest:
        """Return the request that a record carries."""
        assert record.stop_requested_at is not None
        mode = StopMode(record.stop_mode)
        escalated_at = record.stop_escalated_at
        plans = {StopMode.ABORT: record.stop_abort_at, StopMode.ABANDON: record.stop_abandon_at}
        plan, by = plans.get(mode), record.stop_escalated_by_name
        is_planned = bool(escalated_at and plan and not by and plan <= escalated_at)
        return cls(
            mode,
            record.stop_reason,
            record.stop_via,
            record.stop_requester,
            record.stop_requested_at,
            record.stop_root_request or record.pk,
            by or None,
            escalated_at,
            is_planned,
            limit=record.stop_limit,
        )

    def as_data(self) -> dict[str, Any]:
        """Return the data of the event."""
        data: dict[str, Any] = _REQUEST.dump_python(self, mode="json")
        data["requested_at"] = self.requested_at.isoformat()  # pydantic writes Z for UTC
        if self.limit is None:
            del data["limit"]
        if self.escalated_at is None:
            for name in ("escalated_by", "escalated_at", "planned"):
                del data[name]
        else:
            data["escalated_at"] = self.escalated_at.isoformat()
        return data

    def events_after(self, recorded: StopMode | None) -> list[dict[str, Any]]:
        """Return the data of the events that a log lacks.

        ``recorded`` is the hardest mode of the log's events; None if it has none.
        """
        missing = [] if recorded is not None and recorded.rank >= self.mode.rank else [self]
        if missing and self.escalated_at is not None and recorded is None:
            # The transaction that abandons a run writes its log as well, so this is an abort,
            # and only a graceful stop can have come before it.
            first = replace(self, mode=StopMode.GRACEFUL, escalated_by=None, escalated_at=None)
            missing.insert(0, first)
        return [one.as_data() for one in missing]


@dataclass(frozen=True, slots=True)
class StopDelivery:
    """A committed stop request, addressed to one claim of one run.

    It has all that the worker needs to trip the token without a query.
    """

    run: uuid.UUID
    worker: uuid.UUID | None  # None: no worker has claimed the run
    attempt: int
    request: StopRequest

    @classmethod
    def of(cls, record: RunRecord) -> Self:
        """Address the request that a record carries to the record's claim."""
        return cls(record.pk, record.worker_id, record.attempt, StopRequest.of(record))

    def as_message(self) -> dict[str, Any]:
        """Return the part of the message ``RunStop`` that says this."""
        message: dict[str, Any] = _DELIVERY.dump_python(self, mode="json")
        return message

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> StopDelivery:
        return _DELIVERY.validate_python(message)


_REQUEST = TypeAdapter(StopRequest)
_DELIVERY = TypeAdapter(StopDelivery)
