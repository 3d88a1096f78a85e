"""The shapes of events, calls and errors on the wire.

The API makes its serializers, and with them OpenAPI, from these shapes. ``runs.wire`` has the shape
of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

__all__ = ["CallOnWire", "Count", "ErrorInfo", "EventOnWire", "Form", "Instant", "Source", "Uuid"]

Source = Literal["system", "agent"]


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a field, beyond its type. Its meaning for OpenAPI is a plain string."""

    format: Literal["uuid", "instant"] | None = None
    min_value: int | None = None
    max_value: int | None = None
    max_length: int | None = None
    choices: tuple[str, ...] | None = None


Uuid = Annotated[str, Form("uuid")]
Instant = Annotated[str, Form("instant")]  # ISO 8601, UTC
Count = Annotated[int, Form(min_value=0)]


class ErrorInfo(TypedDict):
    """What ended a run as `error`."""

    code: str
    type: str
    message: str


class CallOnWire(TypedDict):
    """A guarded call that is in flight."""

    call: Annotated[str, "Its id, the same in its event."]
    tool: str
    label: str
    started_at: Instant


class EventOnWire(TypedDict):
    """One line of a run's log."""

    run: Uuid
    seq: Annotated[int, Form(min_value=1), "From 1, without a gap."]
    ts: Instant
    type: str
    agent: str
    depth: Annotated[Count, "0 for the root of a tree of runs."]
    source: Source
    data: Annotated[dict[str, Any], "What is particular to the type."]
