"""A stop request, and its delivery: the message from the requesting process to the worker."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pydantic import TypeAdapter

from agents.cancellation import StopMode
from runs.models import RunRecord

__all__ = ["StopDelivery", "StopRequest"]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """One stop request, as in a run's receipt and its ``stop_requested`` event."""

    mode: StopMode
    reason: str
    via: str
    requested_by: str | None  # username
    requested_at: datetime
    root_request: uuid.UUID  # the run on which it was requested
    limit: dict[str, Any] | None = None  # that was reached

    @classmethod
    def of(cls, record: RunRecord) -> StopRequest:
        """Return the request that a record carries."""
        assert record.stop_requested_at is not None
        return cls(
            StopMode(record.stop_mode),
            record.stop_reason,
            record.stop_via,
            record.stop_requester,
            record.stop_requested_at,
            record.stop_root_request or record.pk,
            limit=record.stop_limit,
        )

    def as_data(self) -> dict[str, Any]:
        """Return the data of the event."""
        data: dict[str, Any] = _REQUEST.dump_python(self, mode="json")
        if self.limit is None:
            del data["limit"]
        return data | {"requested_at": self.requested_at.isoformat()}  # pydantic writes Z for UTC


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
