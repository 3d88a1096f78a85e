"""What people read about a run: one source for the page, the admin and the command line.

What there is to say about its stop is in ``receipts``.

Pure functions over a run as it goes over the wire (or any mapping of that shape; instants may be
ISO 8601 text or aware datetimes). No HTML here, no colours, no database: doors dress the words up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from runs.status import STOPPING, Status

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = [
    "LOOKS",
    "STAND_IN_NOTE",
    "WORKER_LOOKS",
    "Call",
    "Instant",
    "Look",
    "Run",
    "Tone",
    "as_datetime",
    "call_kind",
    "clock",
    "duration",
    "look",
    "oldest_awaited",
    "queued_text",
    "seconds_between",
    "stopping_text",
    "tokens",
    "usage_text",
    "waiting_detail",
    "waiting_for",
    "worker_look",
    "worker_silent",
]

Run = Mapping[str, Any]
Call = Mapping[str, Any]
Instant = datetime | str

#: ``muted`` is grey, ``bad`` the one red; which shades these are is the door's business.
Tone = Literal["waiting", "active", "muted", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Look:
    """How a status shows.

    ``sign`` is one character of text; a page may draw it instead. ``is_turning``: something is
    alive, so the sign may move where motion is wanted.
    """

    label: StrOrPromise
    sign: str
    tone: Tone
    is_turning: bool = False


LOOKS: dict[str, Look] = {
    Status.QUEUED: Look(gettext_lazy("Queued"), "○", "waiting"),
    Status.RUNNING: Look(gettext_lazy("Running"), "◐", "active", True),
    STOPPING: Look(gettext_lazy("Stopping..."), "◐", "muted", True),
    Status.STOPPED: Look(gettext_lazy("Stopped"), "■", "muted"),
    Status.SUCCESS: Look(gettext_lazy("Done"), "✓", "good"),
    Status.ERROR: Look(gettext_lazy("Error"), "✗", "bad"),
}


WORKER_LOOKS: dict[str, Look] = {
    "alive": Look(gettext_lazy("Alive"), "●", "good"),
    "draining": Look(gettext_lazy("Draining"), "◐", "muted"),
    "silent": Look(gettext_lazy("Silent"), "?", "muted"),
    "gone": Look(gettext_lazy("Gone"), "○", "waiting"),
}
_LATE_SECONDS = 2.0  # a heartbeat may be late by this

#: Wherever agents are started while no model is configured.
STAND_IN_NOTE = gettext_lazy("The answers come from the built-in stand-in, not from a real model.")


def look(status: str) -> Look:
    """Return how a shown status looks, ``stopping`` among them; an unknown one by its own name."""
    return LOOKS.get(status) or Look(status, "?", "muted")


# Numbers.


def duration(seconds: float) -> str:
    """Return ``320 ms``, ``3.2 s``, ``41 s``, ``1:42`` or ``1:02:03``; never rounded up."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return _("%(number)s ms") % {"number": int(seconds * 1000)}
    if seconds < 10:
        return _("%(number)s s") % {"number": f"{int(seconds * 10) / 10:.1f}"}
    if seconds < 60:
        return _("%(number)s s") % {"number": int(seconds)}
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def tokens(count: int, *, estimated: bool = False) -> str:
    """Return ``812 tokens``, ``12.4k tokens`` or ``1.2M tokens``; with ``~`` if ``estimated``."""
    words = ngettext("%(number)s token", "%(number)s tokens", count) % {"number": _short(count)}
    return f"~{words}" if estimated else words


def usage_text(usage: Mapping[str, Any]) -> str:
    """Return ``7 LLM calls · 12.4k tokens``, or nothing if no model was called."""
    calls = usage["llm_calls"]
    if not calls:
        return ""
    count = usage["input_tokens"] + usage["output_tokens"]
    words = ngettext("%(count)d LLM call", "%(count)d LLM calls", calls) % {"count": calls}
    return f"{words} · {tokens(count, estimated=usage['estimated'])}"


def clock(at: Instant, *, now: datetime | None = None) -> str:
    """Return ``14:03:22`` in the current time zone; with the date if ``now`` is on another day."""
    local = timezone.localtime(as_datetime(at))
    if now is not None and timezone.localtime(now).date() != local.date():
        return f"{local:%Y-%m-%d %H:%M:%S}"
    return f"{local:%H:%M:%S}"


def seconds_between(earlier: Instant, later: Instant) -> float:
    """Return how many seconds lie between two instants."""
    return (as_datetime(later) - as_datetime(earlier)).total_seconds()


def _short(count: int) -> str:
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count * 10 // size / 10:g}{sign}"
    return str(count)


def as_datetime(at: Instant) -> datetime:
    """Return an instant that may be ISO 8601 text."""
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)


# While queued.


def queued_text(*, of: Literal["agent", "owner", ""] = "", taken: int = 0, limit: int = 0) -> str:
    """Return what a queued run waits for: a worker, or the end of another run within a limit."""
    words = {"taken": taken, "limit": limit}
    match of:
        case "agent":
            return _("%(taken)d of %(limit)d runs of this agent are going on.") % words
        case "owner":
            return _("%(taken)d of %(limit)d runs of this owner are going on.") % words
        case _:
            return _("it is waiting for a worker.")


# While stopping.


def stopping_text(run: Run, now: datetime | None = None) -> str:
    """Return ``Stopping... (after current LLM call completes)``; with ``now`` in the long form."""
    return _("Stopping... (%(wait)s)") % {"wait": waiting_for(run, now)}


def waiting_for(run: Run, now: datetime | None = None) -> str:
    """Return what a stopping run waits for: ``after current LLM call completes``.

    Of ``run`` are read ``in_flight`` and ``stop`` (``acknowledged_at``, ``observed_at``). With
    ``now`` it goes on with what and how long: ``after current LLM call completes: llama3, 41 s``.
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
    clauses = [_clause(kind, some) for kind, some in kinds.items()]
    words = _("after %(what)s") % {"what": _(" and ").join(clauses)}
    detail = waiting_detail(run, now) if now is not None else ""
    return f"{words}: {detail}" if detail else words


def waiting_detail(run: Run, now: datetime) -> str:
    """Return ``llama3, 41 s`` of the oldest call that a stopping run waits for, or nothing."""
    oldest = oldest_awaited(run)
    if oldest is None:
        return ""
    label, started_at = oldest
    since = duration(seconds_between(started_at, now))
    return f"{label}, {since}" if label else since


def oldest_awaited(run: Run) -> tuple[str, Instant] | None:
    """Return name and start of the oldest call that a stopping run waits for.

    The name is empty where ``waiting_for`` has it already.
    """
    calls = _awaited(run)
    if not calls or not (run.get("stop") or {}).get("acknowledged_at"):
        return None
    oldest = min(calls, key=lambda call: as_datetime(call["started_at"]))
    named_already = call_kind(oldest) == "agents" and len(calls) == 1
    return "" if named_already else oldest["label"], oldest["started_at"]


def worker_look(worker: Mapping[str, Any], *, now: datetime, renewed_every_seconds: float) -> Look:
    """Return how a worker shows; of it are read ``lost_at``, ``draining_at`` and ``heartbeat_at``.

    It is called silent once it has missed a heartbeat; whether it is lost, its lease decides.
    """
    if worker["lost_at"]:
        return WORKER_LOOKS["gone"]
    late = seconds_between(worker["heartbeat_at"], now) - renewed_every_seconds
    if late > _LATE_SECONDS:
        return WORKER_LOOKS["silent"]
    return WORKER_LOOKS["draining" if worker["draining_at"] else "alive"]


def worker_silent(lease_seconds: float) -> str:
    """Say that a stop can't be delivered at once."""
    seconds = max(1, int(lease_seconds))
    left = duration(seconds) if seconds >= 60 else _("%(number)s s") % {"number": seconds}
    return _("The worker does not answer; its lease ends in %(left)s.") % {"left": left}


def log_removed(at: str) -> str:
    """Say since when a run's log is gone; ``at`` as it goes over the wire."""
    day = date_format(timezone.localtime(as_datetime(at)), "DATE_FORMAT")
    return _("The log was removed on %(day)s.") % {"day": day}


def _awaited(run: Run) -> list[Call]:
    """Return the calls that hold the stop up; those made while cleaning up are no such calls."""
    calls = run.get("in_flight") or []
    observed_at = (run.get("stop") or {}).get("observed_at")
    if not observed_at:
        return list(calls)
    met = as_datetime(observed_at)
    return [
        call
        for call in calls
        # When the code is over, the runtime waits for the sub-agents that it has started.
        if call["tool"] == "agents.wait" or as_datetime(call["started_at"]) <= met
    ]


def call_kind(call: Call) -> str:
    """Return what a call is called by: ``call_llm``, ``data_store``, ``http``, ``agents``, ..."""
    tool = str(call["tool"])
    return tool if tool in ("call_llm", "http", "agents.start") else tool.partition(".")[0]


def _clause(kind: str, calls: Sequence[Call]) -> str:
    count = len(calls)
    match kind:
        case "call_llm":
            words = ngettext(
                "current LLM call completes", "%(count)d current LLM calls complete", count
            )
        case "data_store":
            words = ngettext(
                "current data store call completes",
                "%(count)d current data store calls complete",
                count,
            )
        case "http":
            words = ngettext(
                "current HTTP request completes", "%(count)d current HTTP requests complete", count
            )
        case "agents":
            words = ngettext("sub-agent %(name)s stops", "%(count)d sub-agents stop", count)
        case "agents.start":
            words = ngettext(
                "sub-agent %(name)s is queued", "%(count)d sub-agents are queued", count
            )
        case _:
            words = ngettext("current call completes", "%(count)d current calls complete", count)
    return words % {"count": count, "name": calls[0]["label"]}
