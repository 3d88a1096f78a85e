"""The ladder of a stop: which harder rung a screen offers, what that does, and what is planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypedDict

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from agents.cancellation import StopMode
from runs.models import RunRecord
from runs.status import STOPPING

from .stop import WORK, Call, Run, awaited, call_kind
from .time import Instant, as_datetime, duration, seconds_between

__all__ = [
    "MODE_WORDS",
    "OFFER_SECONDS",
    "Confirmation",
    "Offer",
    "Planned",
    "is_due",
    "next_rung",
    "planned",
    "planned_text",
    "planned_words",
    "wire_part",
]

#: How long a stop has, since it was asked for or last became harder, before more is offered.
OFFER_SECONDS = 5.0

#: The rungs, each as a choice that a person makes.
MODE_WORDS = {
    StopMode.GRACEFUL: gettext_lazy("Let the calls in flight complete, and refuse the next ones"),
    StopMode.ABORT: gettext_lazy("Cut the calls in flight as well"),
    StopMode.ABANDON: gettext_lazy("Give up: end the record now, whether the code ends or not"),
}


class Confirmation(TypedDict):
    """A question before an act that nothing can undo."""

    question: str
    yes: str
    no: str


class Offer(TypedDict):
    """The rung that a stopping run is offered next."""

    mode: str
    label: str  # Stop now
    hint: str  # cuts the call in flight
    effect: str  # one sentence: the reply, the money, the data
    at: str  # ISO 8601: from when on
    confirm: Confirmation | None


class Planned(TypedDict):
    """A rung to which the stop goes by itself."""

    mode: str
    text: str  # Cuts the call in flight by itself in %(left)s.
    at: str  # ISO 8601


def wire_part(record: RunRecord) -> Run:
    """Return the part of a run on the wire that the words of a stop under way need."""
    return {
        "status": record.shown_status,
        "in_flight": record.in_flight,
        "stop": {
            "mode": record.stop_mode,
            "requested_at": record.stop_requested_at,
            "escalated_at": record.stop_escalated_at,
            "acknowledged_at": record.stop_acknowledged_at,
            "observed_at": record.stop_observed_at,
            "abort_at": record.stop_abort_at,
            "abandon_at": record.stop_abandon_at,
        },
    }


def next_rung(run: Run) -> Offer | None:
    """Return the rung to offer; None if there is none above, or the run is not stopping.

    A cut is offered first. If it can't help, or was asked for and did not help, then giving up.
    The instant depends on the record alone, so it is the same after a reload and in every tab.
    """
    stop = run.get("stop")
    if run["status"] != STOPPING or not stop or stop["mode"] == StopMode.ABANDON:
        return None
    since = as_datetime(stop.get("escalated_at") or stop["requested_at"])
    in_flight = awaited(run)
    kinds = {call_kind(call) for call in in_flight}
    if why := _why_no_cut(run, kinds):
        if not kinds and stop.get("observed_at"):
            since = max(since, as_datetime(stop["observed_at"]))
        return _giving_up(why, since)
    return {
        "mode": StopMode.ABORT,
        "label": _("Stop now"),
        "hint": _hint(in_flight),
        "effect": _effect_of_cut(kinds),
        "at": _offered_at(since),
        "confirm": None,
    }


def is_due(offer: Offer | None, now: datetime) -> bool:
    """Tell whether there is an offer, and its time has come."""
    return offer is not None and as_datetime(offer["at"]) <= now


def planned(run: Run) -> list[Planned]:
    """Return the rungs to which a stopping run goes by itself, the next one first."""
    stop = run.get("stop")
    if run["status"] != STOPPING or not stop:
        return []
    rank = StopMode(stop["mode"] or StopMode.GRACEFUL).rank
    abort_at, abandon_at = stop.get("abort_at"), stop.get("abandon_at")
    if abort_at and abandon_at and as_datetime(abandon_at) <= as_datetime(abort_at):
        abort_at = None  # what is due for both is given up; each may be another request's
    rungs = [
        (StopMode.ABORT, abort_at, _("Cuts the calls in flight by itself in %(left)s.")),
        (StopMode.ABANDON, abandon_at, _("Gives up by itself in %(left)s.")),
    ]
    return [
        {"mode": mode, "text": text, "at": _iso(at)}
        for mode, at, text in rungs
        if at and mode.rank > rank
    ]


def planned_text(run: Run, now: datetime) -> str:
    """Return what is planned, as it stands now; nothing if nothing is."""
    return " ".join(planned_words(one, now) for one in planned(run))


def planned_words(one: Planned, now: datetime) -> str:
    """Return ``Gives up by itself in 8 s.``"""
    seconds = max(0, math.ceil(seconds_between(now, one["at"])))
    left = duration(seconds) if seconds >= 60 else _("%(number)s s") % {"number": seconds}
    return one["text"] % {"left": left}


def _giving_up(why: str, since: datetime) -> Offer:
    label = _("Give up on it")
    return {
        "mode": StopMode.ABANDON,
        "label": label,
        "hint": "",
        "effect": _(
            "%(why)s. Giving up ends the run now: a reply that still comes is lost but paid for, "
            "and code that goes on can store nothing any more."
        )
        % {"why": why},
        "at": _offered_at(since),
        "confirm": {
            "question": _("Give up on this run?"),
            "yes": label,
            "no": _("Keep waiting"),
        },
    }


def _why_no_cut(run: Run, kinds: set[str]) -> str:
    """Return why a cut can't help; nothing if it can."""
    stop = run["stop"]
    if not stop.get("acknowledged_at"):
        return _("Its worker does not answer")
    is_cut = stop["mode"] == StopMode.ABORT
    after_a_cut = _("The cut has not ended it yet") if is_cut else ""
    if kinds & {"call_llm", "http", "agents", "agents.start"}:
        return after_a_cut
    if "thread" in kinds:
        return _("Code in a thread can't be cut")
    if kinds & {"process", "task"}:
        return after_a_cut
    if "data_store" in kinds:
        return _("A call of the data store is never cut")
    if stop.get("observed_at"):
        return _("It is cleaning up, which is not cut")
    return _("Code that computes can't be cut") if is_cut else ""


def _hint(in_flight: Sequence[Call]) -> str:
    count = sum(call_kind(call) not in WORK for call in in_flight)
    if not count:
        return _("interrupts its code")
    return ngettext("cuts the call in flight", "cuts the %(count)d calls in flight", count) % {
        "count": count
    }


def _effect_of_cut(kinds: set[str]) -> str:
    if "call_llm" in kinds:
        return _(
            "The reply is kept as far as it has come, what was written so far is paid for, "
            "and stored data stays as it is."
        )
    if kinds & {"agents", "agents.start"}:
        return _(
            "Its sub-agents are cut as well: replies are kept as far as they have come, what was "
            "written so far is paid for, and stored data stays as it is."
        )
    if "http" in kinds:
        return _(
            "The answer is lost, what the other end charges is paid for, "
            "and what the request has changed or stored stays as it is."
        )
    return _(
        "No reply is lost, nothing more is paid for, and stored data stays as it is; "
        "code that computes can't be interrupted."
    )


def _offered_at(since: datetime) -> str:
    return _iso(since + timedelta(seconds=OFFER_SECONDS))


def _iso(at: Instant) -> str:
    return at.isoformat() if isinstance(at, datetime) else at
