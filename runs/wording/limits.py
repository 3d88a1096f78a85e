"""What people read about the limits of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from .time import duration

__all__ = ["limits_text", "reached_text"]

_LONG_SECONDS = 120  # from here on in minutes: 60 s, 2:00


def reached_text(stop: Mapping[str, Any]) -> str:
    """Return the limit that a stop came from: ``It reached its deadline of 60 s.``; or nothing."""
    limit = stop.get("limit")
    if not limit or limit["limit"] is None:
        return ""
    words = {"limit": _seconds(limit["limit"])}
    match limit["kind"]:
        case "wall" if limit["scope"] == "tree":
            return _("A run above it reached its deadline of %(limit)s.") % words
        case "wall":
            return _("It reached its deadline of %(limit)s.") % words
        case "idle":
            return _("It showed no sign of life for %(limit)s.") % words
        case _:
            return ""


def limits_text(limits: Mapping[str, Any]) -> str:
    """Return ``60 s in all · 5 s without a sign of life``; nothing without a limit."""
    words = {
        "deadline_seconds": _("%(limit)s in all"),
        "idle_seconds": _("%(limit)s without a sign of life"),
        "call_seconds": _("%(limit)s in a call"),
    }
    return " · ".join(
        text % {"limit": _seconds(limits[name])}
        for name, text in words.items()
        if limits[name] is not None
    )


def _seconds(seconds: float) -> str:
    if seconds < _LONG_SECONDS:
        return _("%(number)s s") % {"number": f"{seconds:g}"}
    return duration(seconds)
