"""What people read about a run: one source for the page, the admin and the command line.

Pure functions over a run as it goes over the wire (or any mapping of that shape; instants may be
ISO 8601 text or aware datetimes). No HTML here, no colours, no database: doors dress the words up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .status import STOPPING, TERMINAL, Status

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = [
    "LOOKS",
    "STAND_IN_NOTE",
    "WORKER_LOOKS",
    "Look",
    "Tone",
    "calls_waited_for",
    "clock",
    "duration",
    "look",
    "oldest_awaited",
    "queued_text",
    "receipt_sentences",
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
    local = timezone.localtime(_instant(at))
    if now is not None and timezone.localtime(now).date() != local.date():
        return f"{local:%Y-%m-%d %H:%M:%S}"
    return f"{local:%H:%M:%S}"


def seconds_between(earlier: Instant, later: Instant) -> float:
    """Return how many seconds lie between two instants."""
    return (_instant(later) - _instant(earlier)).total_seconds()


def _short(count: int) -> str:
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count * 10 // size / 10:g}{sign}"
    return str(count)


def _instant(at: Instant) -> datetime:
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
        kinds.setdefault(_kind(call), []).append(call)
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
    oldest = min(calls, key=lambda call: _instant(call["started_at"]))
    named_already = _kind(oldest) == "agents" and len(calls) == 1
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
    day = date_format(timezone.localtime(_instant(at)), "DATE_FORMAT")
    return _("The log was removed on %(day)s.") % {"day": day}


def _awaited(run: Run) -> list[Call]:
    """Return the calls that hold the stop up; those made while cleaning up are no such calls."""
    calls = run.get("in_flight") or []
    observed_at = (run.get("stop") or {}).get("observed_at")
    if not observed_at:
        return list(calls)
    return [
        call
        for call in calls
        # When the code is over, the runtime waits for the sub-agents that it has started.
        if call["tool"] == "agents.wait" or _instant(call["started_at"]) <= _instant(observed_at)
    ]


def _kind(call: Call) -> str:
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


# The receipt.


def receipt_sentences(
    run: Run,
    *,
    waited_for: Iterable[Call] = (),
    now: datetime | None = None,
    result_below: bool = True,
) -> list[str]:
    """Return what there is to say about a run's stop, as a person would say it.

    Empty if nobody asked for one. ``waited_for`` are the calls that were in flight when the stop
    came (see ``calls_waited_for``); ``now`` puts dates to times of other days; ``result_below``:
    the partial result, if there is one, is shown below these sentences.
    """
    stop = run.get("stop")
    if not stop:
        return []
    at = clock(stop["requested_at"], now=now)
    if run["status"] not in TERMINAL:
        sentences = [_asked(stop, at), _escalation(stop, now), f"{stopping_text(run, now)}."]
    elif run["status"] != Status.STOPPED:
        sentences = [_finished_first(run, stop, at)]
    else:
        sentences = [
            _stopped(run, stop, at),
            _escalation(stop, now),
            _effect(run, stop, list(waited_for)),
            _started_after(stop),
            _cleanup_error(stop),
            _abandoned(stop),
            _kept(run, result_below),
        ]
    return [sentence for sentence in sentences if sentence]


def calls_waited_for(events: Iterable[Mapping[str, Any]], stop: Mapping[str, Any]) -> list[Call]:
    """Return those calls of a run's log that were in flight when its stop was acknowledged.

    They are what the stop waited for; each comes as the ``data`` of its event.
    """
    acknowledged_at = stop.get("acknowledged_at")
    if not acknowledged_at:
        return []
    at = _instant(acknowledged_at)
    return [
        event["data"]
        for event in events
        if "started_at" in event["data"]
        and _instant(event["data"]["started_at"]) <= at < _instant(event["ts"])
    ]


def _by(stop: Mapping[str, Any]) -> str:
    """Say who asked, by what way; with a blank before it, or nothing if that can't be known."""
    name = stop.get("requested_by")
    match stop.get("via"):
        case "cli":
            way = _("from the command line")
        case "admin":
            way = _("in the admin")
        case "api":
            way = _("through the API")
        case _:
            way = ""
    who = _("by %(name)s") % {"name": name} if name else ""
    return "".join(f" {words}" for words in (who, way) if words)


def _because(stop: Mapping[str, Any]) -> str:
    reason = str(stop.get("reason") or "").strip()
    return _(" (reason: %(reason)s)") % {"reason": reason} if reason else ""


def _asked(stop: Mapping[str, Any], at: str) -> str:
    words = {"at": at, "by": _by(stop), "because": _because(stop)}
    return _("A stop was asked for at %(at)s%(by)s%(because)s.") % words


def _finished_first(run: Run, stop: Mapping[str, Any], at: str) -> str:
    if run["status"] == Status.SUCCESS:
        but = _("but the run had already done its work")
    else:
        but = _("but the run had already ended in an error")
    words = {"at": at, "by": _by(stop), "because": _because(stop), "but": but}
    return _("A stop was asked for at %(at)s%(by)s%(because)s, %(but)s.") % words


def _stopped(run: Run, stop: Mapping[str, Any], at: str) -> str:
    words = {"at": at, "by": _by(stop), "because": _because(stop)}
    if stop.get("via") == "budget":
        return _("Stopped by its budget at %(at)s%(because)s.") % words
    if stop.get("via") == "parent":
        if stop.get("root_request") in (None, run["id"]):
            return _("Stopped by the run that called it at %(at)s%(because)s.") % words
        return _("Stopped%(by)s with the run that called it at %(at)s%(because)s.") % words
    return _("Stopped%(by)s at %(at)s%(because)s.") % words


def _escalation(stop: Mapping[str, Any], now: datetime | None) -> str:
    if not stop.get("escalated_at"):
        return ""
    at = clock(stop["escalated_at"], now=now)
    by = _(" by %(name)s") % {"name": stop["escalated_by"]} if stop.get("escalated_by") else ""
    words = {"mode": stop["mode"], "at": at, "by": by}
    return _("It was made a stop by %(mode)s at %(at)s%(by)s.") % words


def _effect(run: Run, stop: Mapping[str, Any], waited_for: list[Call]) -> str:
    if not run.get("started_at"):
        return _("It had not begun.")
    if not stop.get("observed_at"):
        return _("Its worker was gone; the run was ended without it.")
    later = duration(seconds_between(stop["requested_at"], stop["observed_at"]))
    if not waited_for:
        return _("It took effect %(later)s later.") % {"later": later}
    words = {"later": later, "what": _in_flight_words(waited_for)}
    return _("It took effect %(later)s later, after %(what)s.") % words


def _in_flight_words(calls: list[Call]) -> str:
    if len(calls) > 1:
        return _("the %(count)d calls in flight had completed") % {"count": len(calls)}
    match _kind(calls[0]):
        case "call_llm":
            return _("the LLM call in flight had completed")
        case "data_store":
            return _("the data store call in flight had completed")
        case "http":
            return _("the HTTP request in flight had completed")
        case "agents":
            return _("the sub-agent %(name)s had stopped") % {"name": calls[0]["label"]}
        case "agents.start":
            return _("the sub-agent %(name)s was queued") % {"name": calls[0]["label"]}
        case _:
            return _("the call in flight had completed")


def _started_after(stop: Mapping[str, Any]) -> str:
    if not stop.get("observed_at"):
        return ""  # it had not begun, or nobody was left to count
    count = stop.get("calls_started_after_acknowledgement") or 0
    if not count:
        return _("Nothing was started after that.")
    words = ngettext(
        "%(count)d call was started all the same.",
        "%(count)d calls were started all the same.",
        count,
    )
    return words % {"count": count}


def _cleanup_error(stop: Mapping[str, Any]) -> str:
    error = stop.get("cleanup_error")
    if not error:
        return ""
    words = {"type": error["type"], "message": error["message"]}
    return _("While cleaning up it failed with %(type)s: %(message)s") % words


def _abandoned(stop: Mapping[str, Any]) -> str:
    if not stop.get("abandoned"):
        return ""
    return _("Its code may still be running; whatever it does is kept from the records.")


def _kept(run: Run, result_below: bool) -> str:
    if run.get("partial_result") is None:
        return _("It left no partial result.") if run.get("started_at") else ""
    if result_below:
        return _("What it had so far is kept below.")
    return _("What it had so far is kept.")
