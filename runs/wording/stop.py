"""What a stopping run waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext_lazy

from .directions import upright
from .time import Instant, as_datetime, duration, seconds_between

__all__ = [
    "WORK",
    "Call",
    "Run",
    "awaited",
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
_CUTTING = {
    "call_llm": ngettext_lazy(
        "current LLM call is cut", "%(count)d current LLM calls are cut", "count"
    ),
    "http": ngettext_lazy(
        "current HTTP request is cut", "%(count)d current HTTP requests are cut", "count"
    ),
}

#: What is in flight and is no call: code that the agent has started, and that the run waits for.
WORK = {
    "thread": ngettext_lazy(
        "a thread is still running: %(name)s", "%(count)d threads are still running", "count"
    ),
    "task": ngettext_lazy(
        "a task is still running: %(name)s", "%(count)d tasks are still running", "count"
    ),
    "process": ngettext_lazy(
        "a process is still running: %(name)s", "%(count)d processes are still running", "count"
    ),
}


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
    some = awaited(run)
    if not some:
        # Between two calls its code computes, or waits for something that is no tool.
        return _("cleaning up") if stop.get("observed_at") else _("before its next call")
    kinds: dict[str, list[Call]] = {}
    for call in some:
        kinds.setdefault(call_kind(call), []).append(call)
    until = {**_UNTIL, **_CUTTING} if stop.get("mode") == "abort" else _UNTIL
    calls = [
        _said(until.get(kind, _UNTIL_ANY), of) for kind, of in kinds.items() if kind not in WORK
    ]
    work = [_said(WORK[kind], of) for kind, of in kinds.items() if kind in WORK]
    after = [_("after %(what)s") % {"what": _(" and ").join(calls)}] if calls else []
    return "; ".join([*after, *work])


def _said(words: Any, calls: Sequence[Call]) -> str:
    return str(words % {"count": len(calls), "name": upright(calls[0]["label"])})


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
    calls = awaited(run)
    if not calls or not (run.get("stop") or {}).get("acknowledged_at"):
        return None
    oldest = min(calls, key=lambda call: as_datetime(call["started_at"]))
    kind = call_kind(oldest)
    named_already = [call_kind(call) for call in calls].count(kind) == 1 and (
        kind in WORK or (kind == "agents" and len(calls) == 1)
    )
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


def awaited(run: Run) -> list[Call]:
    """Return what a stop waits for: not the calls that the agent's clean-up makes."""
    calls = run.get("in_flight") or []
    observed_at = (run.get("stop") or {}).get("observed_at")
    if not observed_at:
        return list(calls)
    observed = as_datetime(observed_at)
    return [
        call
        for call in calls
        # When the code is over, the runtime waits for the sub-agents and the work that it started.
        if call["tool"] == "agents.wait"
        or call["tool"] in WORK
        or as_datetime(call["started_at"]) <= observed
    ]
