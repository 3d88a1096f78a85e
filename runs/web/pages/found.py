"""The run that a page is about, for a user who may see it."""

from __future__ import annotations

import uuid

from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from runs.models import RunRecord
from runs.wire import for_wire

__all__ = ["find_run"]


def find_run(request: HttpRequest, id: uuid.UUID) -> RunRecord:
    """Return a run with all that pages read of it.

    Raises:
        Http404: there is none that this person may see.
    """
    return get_object_or_404(for_wire(RunRecord.objects.visible_to(request.user)), pk=id)
