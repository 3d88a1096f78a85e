"""What there is to say about the stop of a run, as a person would say it.

Pure functions over a run as it goes over the wire, as all of ``wording``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from runs.status import TERMINAL, Status

from .phrases import (
    Call,
    Run,
    as_datetime,
    call_kind,
    clock,
    duration,
    seconds_between,
    stopping_text,
)

__all__ = ["calls_waited_for", "sentences"]


def sentences(
    run: Run,
    *,
    waited_for: Iterable[Call] = (),
    now: datetime | None = None,
    result_below: bool = True,
) -> list[str]:
    """Return what there is to say about a run's stop, as a person would say it.

    Empty without a request. ``waited_for`` are the calls that were in flight when the stop
    came (see ``calls_waited_for``); ``now`` puts dates to times of other days; ``result_below``:
    the partial result, if there is one, is shown below these sentences.
    """
    stop = run.get("stop")
    if not stop:
        return []
    at = clock(stop["requested_at"], now=now)
    if run["status"] not in TERMINAL:
        said = [_asked(stop, at), _escalation(stop, now), f"{stopping_text(run, now)}."]
    elif run["status"] != Status.STOPPED:
        said = [_finished_first(run, stop, at)]
    else:
        said = [
            _stopped(run, stop, at),
            _escalation(stop, now),
            _effect(run, stop, list(waited_for)),
            _started_after(stop),
            _cleanup_error(stop),
            _abandoned(stop),
            _kept(run, result_below),
        ]
    return [sentence for sentence in said if sentence]


def calls_waited_for(events: Iterable[Mapping[str, Any]], stop: Mapping[str, Any]) -> list[Call]:
    """Return those calls of a run's log that were in flight when its stop was acknowledged.

    They are what the stop waited for; each comes as the ``data`` of its event.
    """
    acknowledged_at = stop.get("acknowledged_at")
    if not acknowledged_at:
        return []
    at = as_datetime(acknowledged_at)
    return [
        event["data"]
        for event in events
        if "started_at" in event["data"]
        and as_datetime(event["data"]["started_at"]) <= at < as_datetime(event["ts"])
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
    match call_kind(calls[0]):
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
        return ""  # it had not started, or no worker was left to count
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
