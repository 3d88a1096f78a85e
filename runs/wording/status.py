"""How the status of a run or of a worker shows: one word, one sign and one tone for every door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from django.utils.translation import gettext_lazy

from runs.status import STOPPING, Status

from .time import seconds_between

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["LOOKS", "WORKER_LOOKS", "Look", "Tone", "look", "worker_look"]

_LATE_SECONDS = 2.0  # a heartbeat may be late by this

#: ``muted`` is grey, ``bad`` the one red. The door chooses the shades.
Tone = Literal["waiting", "active", "muted", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Look:
    """How a status shows. ``sign`` is one character of text; a page may draw it instead."""

    label: StrOrPromise
    sign: str
    tone: Tone


LOOKS: dict[str, Look] = {
    Status.QUEUED: Look(gettext_lazy("Queued"), "○", "waiting"),
    Status.RUNNING: Look(gettext_lazy("Running"), "◐", "active"),
    STOPPING: Look(gettext_lazy("Stopping..."), "◐", "muted"),
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


def look(status: str) -> Look:
    """Return how a shown status looks, ``stopping`` among them; an unknown one by its own name."""
    return LOOKS.get(status) or Look(status, "?", "muted")


def worker_look(worker: Mapping[str, Any], *, now: datetime, renewed_every_seconds: float) -> Look:
    """Return how a worker looks; reads its ``lost_at``, ``draining_at`` and ``heartbeat_at``.

    A worker that has missed a heartbeat is silent. Only its lease decides whether it is lost.
    """
    if worker["lost_at"]:
        return WORKER_LOOKS["gone"]
    late = seconds_between(worker["heartbeat_at"], now) - renewed_every_seconds
    if late > _LATE_SECONDS:
        return WORKER_LOOKS["silent"]
    return WORKER_LOOKS["draining" if worker["draining_at"] else "alive"]
