"""The stop receipt of a run, in the sentences that a person would say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from agents.cancellation import StopMode
from runs.status import TERMINAL, Status

from .directions import upright
from .left_behind import left_behind, unwatched
from .limits import reached_text
from .stop import Call, Run, call_kind, stopping_text
from .time import as_datetime, clock, duration, seconds_between

__all__ = ["calls_waited_for", "sentences"]

Stop = Mapping[str, Any]

_WAYS = {
    "cli": gettext_lazy("from the command line"),
    "admin": gettext_lazy("in the admin"),
    "api": gettext_lazy("through the API"),
}
_AFTER = {
    "call_llm": gettext_lazy("the LLM call in flight had completed"),
    "data_store": gettext_lazy("the data store call in flight had completed"),
    "http": gettext_lazy("the HTTP request in flight had completed"),
    "agents": gettext_lazy("the sub-agent %(name)s had stopped"),
    "agents.start": gettext_lazy("the sub-agent %(name)s was queued"),
}
_AFTER_ANY = gettext_lazy("the call in flight had completed")


def sentences(
    run: Run,
    *,
    waited_for: Iterable[Call] = (),
    now: datetime | None = None,
    result_below: bool = True,
) -> list[str]:
    """Return the receipt of a run; nothing without a stop request.

    Args:
        waited_for: the calls that were in flight at the acknowledgement: ``calls_waited_for``.
        now: adds the date to times of other days.
        result_below: the partial result is shown below these sentences.
    """
    stop = run.get("stop")
    if not stop:
        return []
    at = clock(stop["requested_at"], now=now)
    words = {"at": at, "by": _by(stop), "because": _because(stop)}
    if run["status"] == Status.STOPPED:
        said = [_stopped(run, stop, words), reached_text(stop), _escalation(stop, now)]
        said += _ended(run, stop, list(waited_for), result_below, now)
    elif run["status"] in TERMINAL:
        finished = _finished_first(run, words)
        said = [finished, reached_text(stop), unwatched(**run.get("unwatched", {}))]
    else:
        asked = _("A stop was asked for at %(at)s%(by)s%(because)s.") % words
        said = [asked, reached_text(stop), _escalation(stop, now), *_plans(stop, now)]
        said.append(f"{stopping_text(run)}.")
    return [sentence for sentence in said if sentence]


def calls_waited_for(events: Iterable[Mapping[str, Any]], stop: Stop) -> list[Call]:
    """Return the ``data`` of the calls that a stop waited for.

    Of a run's log, these calls were in flight when the stop was acknowledged.
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


def _by(stop: Stop) -> str:
    """Say who asked and how, each after a blank."""
    name = stop.get("requested_by")
    who = _(" by %(name)s") % {"name": upright(name)} if name else ""
    way = _WAYS.get(stop["via"])
    return f"{who} {way}" if way else who


def _because(stop: Stop) -> str:
    if reached_text(stop):
        return ""  # says the same, and how long
    reason = upright(stop.get("reason") or "").strip()
    return _(" (reason: %(reason)s)") % {"reason": reason} if reason else ""


def _finished_first(run: Run, words: Mapping[str, str]) -> str:
    if run["status"] == Status.SUCCESS:
        but = _("but the run had already done its work")
    else:
        but = _("but the run had already ended in an error")
    return _("A stop was asked for at %(at)s%(by)s%(because)s, %(but)s.") % {**words, "but": but}


def _stopped(run: Run, stop: Stop, words: Mapping[str, str]) -> str:
    if stop["via"] == "budget":
        return _("Stopped by its budget at %(at)s%(because)s.") % words
    if stop["via"] == "account":
        return _("Stopped at %(at)s, because its owner's account was deactivated.") % words
    if stop["via"] == "parent":
        if stop.get("root_request") in (None, run["id"]):
            return _("Stopped by the run that called it at %(at)s%(because)s.") % words
        return _("Stopped%(by)s with the run that called it at %(at)s%(because)s.") % words
    return _("Stopped%(by)s at %(at)s%(because)s.") % words


def _escalation(stop: Stop, now: datetime | None) -> str:
    """Say from when on calls were cut, if the stop began more gently, and who asked for that."""
    if not stop.get("escalated_at") or stop["mode"] == StopMode.ABANDON:
        return ""
    words = {"at": clock(stop["escalated_at"], now=now), "by": _escalated_by(stop)}
    return _("From %(at)s on calls in flight were cut%(by)s.") % words


def _given_up(stop: Stop, now: datetime | None) -> str:
    """Return ``Given up at 14:03:40 by demo``; without instant and name if it was the first act."""
    if not stop.get("escalated_at"):
        return _("Given up")
    words = {"at": clock(stop["escalated_at"], now=now), "by": _escalated_by(stop)}
    return _("Given up at %(at)s%(by)s") % words


def _escalated_by(stop: Stop) -> str:
    if name := upright(stop.get("escalated_by") or ""):
        return _(" by %(name)s") % {"name": name}
    due = stop.get("abandon_at" if stop["mode"] == StopMode.ABANDON else "abort_at")
    is_planned = due and as_datetime(due) <= as_datetime(stop["escalated_at"])
    return _(", as planned") if is_planned else ""


def _plans(stop: Stop, now: datetime | None) -> Iterator[str]:
    """Yield what happens by itself if the run has not ended by then."""
    rank = StopMode(stop["mode"] or StopMode.GRACEFUL).rank
    if (at := stop.get("abort_at")) and rank < StopMode.ABORT.rank:
        yield _("At %(at)s the calls in flight are cut.") % {"at": clock(at, now=now)}
    if (at := stop.get("abandon_at")) and rank < StopMode.ABANDON.rank:
        yield _("At %(at)s it is given up.") % {"at": clock(at, now=now)}


def _ended(
    run: Run, stop: Stop, waited_for: Sequence[Call], result_below: bool, now: datetime | None
) -> Iterator[str]:
    """Yield what the stop did to the run."""
    if not run.get("started_at"):
        yield _("It had not started.")
    elif stop.get("abandoned"):
        yield from left_behind(run, _given_up(stop, now))
    elif not stop.get("observed_at"):
        yield _("Its worker was lost; the run was ended without it.")
    else:
        yield _effect(stop, [call for call in waited_for if call.get("outcome") != "aborted"])
        yield from _cut(stop)
        count = stop.get("calls_started_after_acknowledgement") or 0
        more = ngettext(
            "%(count)d call was started all the same.",
            "%(count)d calls were started all the same.",
            count,
        )
        yield more % {"count": count} if count else _("Nothing was started after that.")
    if error := stop.get("cleanup_error"):
        words = {name: upright(text) for name, text in error.items()}
        yield _("While cleaning up it failed with %(type)s: %(message)s") % words
    yield unwatched(**run.get("unwatched", {}))
    if run.get("partial_result") is None:
        if run.get("started_at"):
            yield _("It left no partial result.")
    elif result_below:
        yield _("What it had so far is kept below.")
    else:
        yield _("What it had so far is kept.")


def _cut(stop: Stop) -> Iterator[str]:
    if count := stop.get("calls_cut") or 0:
        words = ngettext("Cut %(count)d call.", "Cut %(count)d calls.", count)
        yield words % {"count": count}
    elif stop["mode"] == StopMode.ABORT:
        yield _("There was no call to cut.")


def _effect(stop: Stop, waited_for: Sequence[Call]) -> str:
    later = duration(seconds_between(stop["requested_at"], stop["observed_at"]))
    if not waited_for:
        return _("It took effect %(later)s later.") % {"later": later}
    if len(waited_for) > 1:
        what = _("the %(count)d calls in flight had completed") % {"count": len(waited_for)}
    else:
        what = _AFTER.get(call_kind(waited_for[0]), _AFTER_ANY) % {
            "name": upright(waited_for[0]["label"])
        }
    return _("It took effect %(later)s later, after %(what)s.") % {"later": later, "what": what}
