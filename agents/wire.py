"""The shapes of what agents tell, on the wire: their events, calls and errors.

A field's form and its words for OpenAPI stand with its type: the API's serializers are made from
these shapes. ``runs.wire`` has the shape of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

__all__ = ["CallInfo", "Count", "ErrorInfo", "EventOnWire", "Form", "Instant", "Source", "Uuid"]

Source = Literal["system", "agent"]


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a field, as far as its type does not say it. Strings annotate its meaning."""

    format: Literal["uuid", "instant"] | None = None
    at_least: int | None = None
    at_most: int | None = None
    longest: int | None = None
    words: tuple[str, ...] = ()


Uuid = Annotated[str, Form("uuid")]
Instant = Annotated[str, Form("instant")]  # ISO 8601, UTC
Count = Annotated[int, Form(at_least=0)]


class ErrorInfo(TypedDict):
    """What ended a run as `error`."""

    code: str
    type: str
    message: str


class CallInfo(TypedDict):
    """A guarded call that is going on now."""

    call: Annotated[str, "Its id, the same in its event."]
    tool: str
    label: str
    started_at: Instant


class EventOnWire(TypedDict):
    """One line of a run's log."""

    run: Uuid
    seq: Annotated[int, Form(at_least=1), "From 1, without a gap."]
    ts: Instant
    type: str
    agent: str
    depth: Annotated[Count, "0 for the root of a tree of runs."]
    source: Source
    data: Annotated[dict[str, Any], "What is particular to the type."]
