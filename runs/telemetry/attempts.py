"""The span of an attempt, from its beginning on, and what its requests tell other servers."""

from __future__ import annotations

import time
from functools import partial

from agents.cancellation import CancelToken, StopMode
from agents.guard import Guard
from agents.trace import Trace, Usage
from runs.conf import conf
from runs.status import Status

from .listener import Listener
from .spans import Attempt, RunSpan
from .traceparent import current_traceparent, hosts

__all__ = ["follow"]


def follow(
    attempt: Attempt, traceparent: str | None, guard: Guard
) -> tuple[RunSpan | None, str | None]:
    """Continue the trace that a run belongs to.

    Return the attempt's span, if this process traces; and what the runs below continue.
    """
    trace = guard.trace
    span = RunSpan.begin(attempt, traceparent)
    trace.listener = Listener(attempt.agent, span)
    if span is not None:
        traceparent = span.traceparent
        guard.token.add_callback(partial(_end_if_abandoned, span, trace, trace.usage))
    if names := conf().traceparent_hosts:
        named = hosts(tuple(names))

        def for_host(host: str) -> str | None:
            return current_traceparent() or traceparent if named.has(host) else None

        guard.traceparent_for = for_host
    return span, traceparent


def _end_if_abandoned(span: RunSpan, trace: Trace, before: Usage, token: CancelToken) -> None:
    """End the span of a run whose record is over: its code may never leave."""
    if token.mode is StopMode.ABANDON:
        span.end(Status.STOPPED.value, None, trace.usage.since(before), time.time_ns())
