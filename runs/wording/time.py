"""Durations and instants, as people read them."""

from __future__ import annotations

import zoneinfo
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import cache
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

__all__ = [
    "Instant",
    "as_datetime",
    "clock",
    "duration",
    "in_zone",
    "is_time_zone",
    "seconds_between",
]

Instant = datetime | str  # aware, or ISO 8601 as it goes over the wire


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


def clock(at: Instant, *, now: datetime | None = None) -> str:
    """Return ``14:03:22`` in the current time zone; with the date if ``now`` is on another day."""
    local = timezone.localtime(as_datetime(at))
    if now is not None and timezone.localtime(now).date() != local.date():
        return f"{local:%Y-%m-%d %H:%M:%S}"
    return f"{local:%H:%M:%S}"


def seconds_between(earlier: Instant, later: Instant) -> float:
    return (as_datetime(later) - as_datetime(earlier)).total_seconds()


def as_datetime(at: Instant) -> datetime:
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)


def in_zone(zone: str) -> AbstractContextManager[Any]:
    """Write instants in the time zone ``zone``; in the site's own, if there is no such zone."""
    if not is_time_zone(zone):
        return nullcontext()
    return timezone.override(zoneinfo.ZoneInfo(zone))


def is_time_zone(name: str) -> bool:
    """Tell whether this machine knows the time zone ``name``."""
    return name in _time_zones()


@cache
def _time_zones() -> set[str]:
    return zoneinfo.available_timezones()  # searches the file system
