"""The facts of a stop, beside the sentences that ``wording`` makes of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from runs.models import RunRecord, StopVia

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["Fact", "stop_facts"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One row; ``at`` is an instant, ``run`` another run that it tells of."""

    label: str
    value: StrOrPromise = ""
    at: datetime | None = None
    run: uuid.UUID | None = None


def stop_facts(run: RunRecord) -> list[Fact]:
    """Return what the record holds of a run's stop; nothing if no stop was asked for."""
    return list(_facts(run)) if run.stop_requested else []


def _facts(run: RunRecord) -> Iterator[Fact]:
    by, escalated_by = run.stop_requested_by, run.stop_escalated_by
    yield Fact(_("Asked at"), at=run.stop_requested_at)
    if by:
        yield Fact(_("Asked by"), by.get_username())
    if run.stop_via:
        yield Fact(_("By way of"), StopVia(run.stop_via).label)
    if run.stop_root_request and run.stop_root_request != run.pk:
        yield Fact(_("Asked of"), _("the run above"), run=run.stop_root_request)
    if run.stop_reason:
        yield Fact(_("Reason"), run.stop_reason)
    if run.stop_mode:
        yield Fact(_("Mode"), run.stop_mode)
    if run.stop_escalated_at:
        yield Fact(_("Made harder at"), at=run.stop_escalated_at)
        if escalated_by:
            yield Fact(_("Made harder by"), escalated_by.get_username())
    if run.stop_acknowledged_at:
        yield Fact(_("The worker heard it at"), at=run.stop_acknowledged_at)
    if run.stop_observed_at:
        yield Fact(_("It took effect at"), at=run.stop_observed_at)
        count = run.stop_calls_started_after_acknowledgement
        yield Fact(_("Calls started after the worker heard it"), str(count))
    if run.finished_at:
        yield Fact(_("The run ended at"), at=run.finished_at)
    if run.stop_finished_first:
        yield Fact(_("The run finished first"), _("yes"))
    if run.stop_abandoned:
        yield Fact(_("Abandoned"), _("yes; its code may still be running"))
