"""A run in words, ready-made for a screen that is itself made elsewhere (in a browser, say).

The sentences are ``wording``'s; this gathers those that a screen shows about one run, in the
reader's time zone. What ticks (for how long it has been waiting) is sent as an instant instead.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import cache
from typing import Any, TypedDict

from django.utils import timezone

from runs.status import STOPPING

from . import phrases, receipts

__all__ = ["StatusWords", "WaitingWords", "Words", "in_zone", "is_time_zone", "present"]


class StatusWords(TypedDict):
    """How the status shows."""

    label: str
    tone: phrases.Tone


class WaitingWords(TypedDict):
    """What a stopping run waits for; ``since`` is when the oldest of these calls began."""

    text: str  # Stopping... (after current LLM call completes)
    label: str  # llama3
    since: str | None  # ISO 8601, UTC


class Words(TypedDict):
    """What a screen says of a run."""

    status: StatusWords
    waiting: WaitingWords | None  # only while stopping
    silent: str | None  # the stop can't be delivered: its worker does not answer
    log_removed: str | None  # there is no log any more
    receipt: list[str]  # sentences; none without a stop request
    usage: str


def present(
    run: Mapping[str, Any],
    *,
    zone: str = "",
    now: datetime | None = None,
    waited_for: Iterable[Mapping[str, Any]] = (),
    lease_seconds: float | None = None,
) -> Words:
    """Return what a screen says of ``run``, a run as it goes over the wire.

    ``zone`` is the reader's IANA time zone, else the site's is used. ``waited_for``: see
    ``receipts.sentences``. ``lease_seconds``: its worker gives no sign of life, and its
    lease ends in so many.
    """
    look = phrases.look(run["status"])
    is_stopping = run["status"] == STOPPING
    with in_zone(zone):
        receipt = receipts.sentences(
            run,
            waited_for=waited_for,
            # While stopping this would also put in for how long by now, which would not tick.
            now=None if is_stopping else now or timezone.now(),
        )
        removed_at = run.get("log_removed_at")
        log_removed = phrases.log_removed(removed_at) if removed_at else None
    return {
        "status": {"label": str(look.label), "tone": look.tone},
        "waiting": _waiting(run) if is_stopping else None,
        "silent": (
            phrases.worker_silent(lease_seconds)
            if is_stopping and lease_seconds is not None
            else None
        ),
        "log_removed": log_removed,
        "receipt": receipt,
        "usage": phrases.usage_text(run["usage"]),
    }


def is_time_zone(name: str) -> bool:
    """Tell whether ``name`` is a time zone that this machine knows."""
    return name in _time_zones()


@cache
def _time_zones() -> set[str]:
    return zoneinfo.available_timezones()  # looks through the file system


def _waiting(run: Mapping[str, Any]) -> WaitingWords:
    oldest = phrases.oldest_awaited(run)
    label, since = oldest or ("", None)
    return {
        "text": phrases.stopping_text(run),
        "label": label,
        "since": since.isoformat() if isinstance(since, datetime) else since,
    }


def in_zone(zone: str) -> AbstractContextManager[Any]:
    """Let instants be written in ``zone``; in the site's own, if it is none."""
    if not zone or not is_time_zone(zone):
        return nullcontext()
    return timezone.override(zoneinfo.ZoneInfo(zone))
