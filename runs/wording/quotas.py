"""What people read about quotas."""

from __future__ import annotations

from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _

__all__ = ["amount", "near_text"]


def amount(name: str, count: int | None) -> str:
    """Return a number of a quota: ``1.2 GB``, ``9,120``, or ``no limit``."""
    if count is None:
        return _("no limit")
    return str(filesizeformat(count)) if name == "stored_bytes" else f"{count:,}"


def near_text(name: str, used: int, allowed: int) -> str:
    """Tell an owner that a quota is nearly, or wholly, used up."""
    words = {"used": amount(name, used), "allowed": amount(name, allowed)}
    match name:
        case "queued_runs":
            text = _("%(used)s of at most %(allowed)s runs are queued.")
            full = _("No more can be started until some have begun.")
        case "stored_bytes":
            text = _("Your runs and their agents’ data store take %(used)s of %(allowed)s.")
            full = _("No run can be started until an administrator has deleted some.")
        case _:
            text = _("Your agents’ data store has %(used)s of %(allowed)s keys.")
            full = _("No key can be added until some are deleted.")
    text = text % words
    return f"{text} {full}" if used >= allowed else text
