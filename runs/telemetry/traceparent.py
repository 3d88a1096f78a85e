"""How a trace continues: in with a request, along with a stored run, out with an agent's requests.

The form is that of W3C's Trace Context (https://www.w3.org/TR/trace-context/): ids that are random,
and a flag. It also works in a process without OpenTelemetry, which hands on what it was given.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from agents.values.addresses import AllowList

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

__all__ = [
    "current_traceparent",
    "formatted",
    "hosts",
    "note_request",
    "opentelemetry_api",
    "span_context",
]

_FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

#: Of the request that this code answers, if its process does not trace requests.
_of_request: ContextVar[str | None] = ContextVar("halting_traceparent", default=None)


def opentelemetry_api() -> Any:
    """Return ``opentelemetry.trace``; None as long as no code has set a tracer provider.

    The code that sets one has imported the API, so that this need not.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace  # waits for another thread that imports it

    provider = trace.get_tracer_provider()
    unset = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    return None if isinstance(provider, unset) else trace


def note_request(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Keep the traceparent of a request for the runs that it starts; in the request's context."""
    given = [value for name, value in headers if name == b"traceparent"]
    text = given[0].decode("latin-1").strip() if len(given) == 1 else ""
    _of_request.set(text if _FORM.fullmatch(text) else None)


def current_traceparent() -> str | None:
    """Return the traceparent for what the calling code starts or requests; None without a trace.

    A span goes first: the site's own instrumentation has made it from the request's header.
    """
    api = opentelemetry_api()
    if api is not None:
        context = api.get_current_span().get_span_context()
        if context.is_valid:
            return formatted(context)
    return _of_request.get()


def formatted(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def span_context(traceparent: str | None) -> SpanContext | None:
    """Return what a traceparent says, for OpenTelemetry."""
    match = _FORM.fullmatch(traceparent or "")
    if match is None:
        return None
    from opentelemetry.trace import SpanContext, TraceFlags

    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


@cache
def hosts(entries: tuple[str, ...]) -> AllowList:
    """Return the hosts that get a traceparent, parsed once."""
    return AllowList(entries)
