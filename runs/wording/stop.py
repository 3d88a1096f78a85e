"""What a stopping run waits for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext_lazy

from .time import Instant, as_datetime, duration, seconds_between

__all__ = [
    "Call",
    "Run",
    "call_kind",
    "oldest_awaited",
    "stopping_text",
    "waiting_detail",
    "waiting_for",
    "worker_silent",
]

Run = Mapping[str, Any]  # as on the wire; instants may be datetimes
Call = Mapping[str, Any]

_UNTIL = {
    "call_llm": ngettext_lazy(
        "current LLM call completes", "%(count)d current LLM calls complete", "count"
    ),
    "data_store": ngettext_lazy(
        "current data store call completes",
        "%(count)d current data store calls complete",
        "count",
    ),
    "http": ngettext_lazy(
        "current HTTP request completes", "%(count)d current HTTP requests complete", "count"
    ),
    "agents": ngettext_lazy("sub-agent %(name)s stops", "%(count)d sub-agents stop", "count"),
    "agents.start": ngettext_lazy(
        "sub-agent %(name)s is queued", "%(count)d sub-agents are queued", "count"
    ),
}
_UNTIL_ANY = ngettext_lazy("current call completes", "%(count)d current calls complete", "count")


def stopping_text(run: Run) -> str:
    """Return ``Stopping... (after current LLM call completes)``."""
    return _("Stopping... (%(wait)s)") % {"wait": waiting_for(run)}


def waiting_for(run: Run) -> str:
    """Return what a stopping run waits for: ``after current LLM call completes``.

    Reads ``in_flight`` and ``stop`` (``acknowledged_at``, ``observed_at``).
    """
    stop = run.get("stop") or {}
    if not stop.get("acknowledged_at"):
        return _("waiting for a worker")
    calls = _awaited(run)
    if not calls:
        # Between two calls its code computes, or waits for something that is no tool.
        return _("cleaning up") if stop.get("observed_at") else _("before its next call")
    kinds: dict[str, list[Call]] = {}
    for call in calls:
        kinds.setdefault(call_kind(call), []).append(call)
    clauses = [
        str(_UNTIL.get(kind, _UNTIL_ANY) % {"count": len(some), "name": some[0]["label"]})
        for kind, some in kinds.items()
    ]
    return _("after %(what)s") % {"what": _(" and ").join(clauses)}


def waiting_detail(run: Run, now: datetime) -> str:
    """Return ``llama3, 41 s`` of the oldest call that a stopping run waits for, or nothing."""
    oldest = oldest_awaited(run)
    if oldest is None:
        return ""
    label, started_at = oldest
    since = duration(seconds_between(started_at, now))
    return f"{label}, {since}" if label else since


def oldest_awaited(run: Run) -> tuple[str, Instant] | None:
    """Return label and start of the oldest call that a stopping run waits for.

    The label is empty if ``waiting_for`` has it already.
    """
    calls = _awaited(run)
    if not calls or not (run.get("stop") or {}).get("acknowledged_at"):
        return None
    oldest = min(calls, key=lambda call: as_datetime(call["started_at"]))
    named_already = call_kind(oldest) == "agents" and len(calls) == 1
    return "" if named_already else oldest["label"], oldest["started_at"]


def worker_silent(lease_seconds: float) -> str:
    """Say that a stop can't be delivered at once."""
    seconds = max(1, int(lease_seconds))
    left = duration(seconds) if seconds >= 60 else _("%(number)s s") % {"number": seconds}
    return _("The worker does not answer; its lease ends in %(left)s.") % {"left": left}


def call_kind(call: Call) -> str:
    """Return the kind of a call: ``call_llm``, ``data_store``, ``http``, ``agents``, ..."""
    tool = str(call["tool"])
    return tool if tool in ("call_llm", "http", "agents.start") else tool.partition(".")[0]


def _awaited(run: Run) -> list[Call]:
    """Return the calls that a stop waits for: not those that the agent's clean-up makes."""
    calls = run.get("in_flight") or []
    observed_at = (run.get("stop") or {}).get("observed_at")
    if not observed_at:
        return list(calls)
    observed = as_datetime(observed_at)
    return [
        call
        for call in calls
        # When the code is over, the runtime waits for the sub-agents that it has started.
        if call["tool"] == "agents.wait" or as_datetime(call["started_at"]) <= observed
    ]
