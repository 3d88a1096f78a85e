"""What people read about a run: why it is queued, what it used, and all that a screen says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from runs.status import STOPPING

from .ladder import Offer, Planned, next_rung, planned
from .left_behind import is_still_running
from .receipt import sentences
from .status import Tone, look
from .stop import Call, Run, oldest_awaited, stopping_text, worker_silent
from .time import as_datetime, in_zone

__all__ = [
    "STAND_IN_NOTE",
    "Words",
    "present",
    "queued_text",
    "tokens",
    "tree_usage_text",
    "usage_text",
]

#: For every place that starts agents, while no model is configured.
STAND_IN_NOTE = gettext_lazy("The answers come from the built-in stand-in, not from a real model.")


class StatusWords(TypedDict):
    label: str
    tone: Tone


class WaitingWords(TypedDict):
    """What a stopping run waits for. A screen counts the seconds itself."""

    text: str  # Stopping... (after current LLM call completes)
    label: str  # llama3
    since: str | None  # ISO 8601, UTC: the start of the oldest of these calls


class Words(TypedDict):
    """What a screen says of a run."""

    status: StatusWords
    waiting: WaitingWords | None  # only while stopping
    silent: str | None  # the stop can't be delivered: its worker does not answer
    offer: Offer | None  # a harder stop, from an instant on
    planned: list[Planned]  # to what the stop goes by itself; a screen counts down
    is_left_running: bool  # it was given up, and its code may still be running
    log_removed: str | None  # its log was removed
    receipt: list[str]  # sentences; none without a stop request
    usage: str
    usage_tree: str  # with the runs below it; empty if they have used nothing


def present(
    run: Run,
    *,
    zone: str = "",
    now: datetime | None = None,
    waited_for: Iterable[Call] = (),
    lease_seconds: float | None = None,
) -> Words:
    """Return what a screen says of ``run``, a run as on the wire.

    Args:
        zone: the reader's IANA time zone, else the site's is used.
        waited_for: see ``receipt.sentences``.
        lease_seconds: given if its worker does not answer: when its lease ends.
    """
    status = look(run["status"])
    is_stopping = run["status"] == STOPPING
    silent = worker_silent(lease_seconds) if is_stopping and lease_seconds is not None else None
    waiting: WaitingWords | None = None
    if is_stopping:
        label, since = oldest_awaited(run) or ("", None)
        waiting = {
            "text": stopping_text(run),
            "label": label,
            "since": str(since) if since else None,
        }
    removed_at = run.get("log_removed_at")
    with in_zone(zone):
        return {
            "status": {"label": str(status.label), "tone": status.tone},
            "waiting": waiting,
            "silent": silent,
            "offer": next_rung(run),
            "planned": planned(run),
            "is_left_running": is_still_running(run),
            "log_removed": _log_removed(removed_at) if removed_at else None,
            "receipt": sentences(run, waited_for=waited_for, now=now or timezone.now()),
            "usage": usage_text(run["usage"]),
            "usage_tree": tree_usage_text(run["usage"], run["usage_tree"]),
        }


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


def tree_usage_text(usage: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    """Return ``with sub-agents: 7 LLM calls · 12.4k tokens``; nothing if they have used nothing."""
    if tree == usage:
        return ""
    return _("with sub-agents: %(usage)s") % {"usage": usage_text(tree)}


def queued_text(*, of: Literal["agent", "owner", ""] = "", taken: int = 0, limit: int = 0) -> str:
    """Return what a queued run waits for: a worker, or the end of another run within a limit."""
    words = {"taken": taken, "limit": limit}
    match of:
        case "agent":
            return _("%(taken)d of %(limit)d runs of this agent are running.") % words
        case "owner":
            return _("%(taken)d of %(limit)d runs of this owner are running.") % words
        case _:
            return _("it is waiting for a worker.")


def _log_removed(at: str) -> str:
    day = date_format(timezone.localtime(as_datetime(at)), "DATE_FORMAT")
    return _("The log was removed on %(day)s.") % {"day": day}


def _short(count: int) -> str:
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count * 10 // size / 10:g}{sign}"
    return str(count)
