"""The states of a run, in one place."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["ACTIVE", "SHOWN", "STOPPING", "TERMINAL", "TRANSITIONS", "Status"]


class Status(models.TextChoices):
    """The stored status. A terminal one never changes again."""

    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    SUCCESS = "success", _("Done")
    ERROR = "error", _("Error")
    STOPPED = "stopped", _("Stopped")


#: Shown, not stored: the status of an active run that has a stop request.
STOPPING = "stopping"

#: All that a run can be shown as, in the order of its life.
SHOWN = (
    Status.QUEUED,
    Status.RUNNING,
    STOPPING,
    Status.SUCCESS,
    Status.ERROR,
    Status.STOPPED,
)

ACTIVE = (Status.QUEUED, Status.RUNNING)
TERMINAL = (Status.SUCCESS, Status.ERROR, Status.STOPPED)

#: Target -> the states that it may be reached from. ``running -> queued`` requeues a run whose
#: worker was lost or drained, if its agent allows another attempt.
TRANSITIONS: dict[Status, tuple[Status, ...]] = {
    Status.QUEUED: (Status.RUNNING,),
    Status.RUNNING: (Status.QUEUED,),
    Status.SUCCESS: (Status.RUNNING,),
    Status.ERROR: (Status.QUEUED, Status.RUNNING),
    Status.STOPPED: (Status.QUEUED, Status.RUNNING),
}
