"""The pieces of a run's page that the server draws again when the run changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from runs.models import RunEvent, RunRecord, StopVia
from runs.queue.limits import find_obstacle
from runs.status import STOPPING, Status
from runs.web.feed.reading import read_snapshots
from runs.web.signed_in import signed_in_only
from runs.wire import for_wire, unwatched_of
from runs.wording.left_behind import unwatched
from runs.wording.run import Words, queued_text
from runs.wording.time import as_datetime

from .values.input_fields import input_fields
from .values.rendering import show

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = [
    "find_run",
    "input_fragment",
    "receipt_context",
    "receipt_fragment",
    "result_context",
    "result_fragment",
]


def find_run(request: HttpRequest, id: uuid.UUID) -> RunRecord:
    """Return a run with all that pages read of it.

    Raises:
        Http404: there is none that the user may see.
    """
    return get_object_or_404(for_wire(RunRecord.objects.visible_to(request.user)), pk=id)


@require_safe
@signed_in_only
def result_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Draw the run's result, or why there is none yet."""
    return _fragment(request, "result", result_context(find_run(request, id)))


@require_safe
@signed_in_only
def input_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Draw the run's input."""
    run = find_run(request, id)
    fields = input_fields(run.agent, run.input_record.value)
    return _fragment(request, "input", {"fields": fields, "download": _download(run, "input")})


@require_safe
@signed_in_only
def receipt_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Draw the receipt of the run's stop; ``?tz=`` is the reader's time zone."""
    run = find_run(request, id)
    words = read_snapshots([id])[id].words(request.GET.get("tz", ""))
    return _fragment(request, "receipt", receipt_context(run, words))


def result_context(run: RunRecord) -> dict[str, Any]:
    """Return what ``fragments/result.html`` shows."""
    is_partial = run.result is None and run.partial_result is not None
    value = run.partial_result if is_partial else run.result
    return {
        "is_partial": is_partial,
        "shown": None if value is None else show(value),
        "nothing": _why_nothing(run) if value is None else "",
        "error": run.error,
        "traceback": _traceback(run) if run.error else "",
        "download": _download(run, "result"),
    }


def receipt_context(run: RunRecord, words: Words) -> dict[str, Any]:
    """Return what ``fragments/receipt.html`` shows."""
    return {
        "sentences": words["receipt"],
        "facts": _facts(run),
        "unwatched": unwatched(**unwatched_of(run)),
    }


def _fragment(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    response = render(request, f"runs/fragments/{name}.html", context)
    response.headers["Cache-Control"] = "no-store"
    return response


def _download(run: RunRecord, what: str) -> str:
    return reverse("halting:page-download", kwargs={"id": run.pk, "what": what})


def _why_nothing(run: RunRecord) -> str:
    match run.shown_status:
        case Status.QUEUED:
            return _("No result yet: %(why)s") % {"why": _why_queued(run)}
        case Status.RUNNING:
            return _("No result yet: it is still running.")
        case str(status) if status == STOPPING:
            return _("It is stopping. What it has so far will show here.")
        case Status.STOPPED if run.started_at is None:
            return _("There is no result: it was stopped before it had started.")
        case Status.STOPPED:
            return _("It was stopped, and left no partial result.")
        case Status.ERROR if run.started_at is None:
            return _("There is no result: it had not started.")
        case Status.ERROR:
            return _("It left no partial result.")
        case _:
            return _("It is done. It had nothing to return.")


def _why_queued(run: RunRecord) -> str:
    obstacle = find_obstacle(run)
    if obstacle is None:
        return queued_text()
    return queued_text(of=obstacle.of, taken=obstacle.taken, limit=obstacle.limit)


def _traceback(run: RunRecord) -> str:
    event = RunEvent.objects.filter(run=run, type="error").order_by("-seq").first()
    return str(event.data.get("traceback") or "") if event else ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A row of the receipt; ``at`` is an instant, ``run`` another run to show."""

    label: str
    value: StrOrPromise = ""
    at: datetime | None = None
    run: uuid.UUID | None = None


def _left_behind(run: RunRecord) -> Iterator[Fact]:
    """Yield two rows for each piece of code that was still running when the run was given up."""
    for one in run.stop_left_behind or ():
        yield Fact(_("Left behind"), f"{one['kind']} {one['label']}")
        ended_at = one["ended_at"]
        if ended_at:
            yield Fact(_("It ended at"), at=as_datetime(ended_at))
        else:
            yield Fact(_("It ended at"), _("may still be running"))


def _facts(run: RunRecord) -> list[Fact]:
    """Return the record's facts about its stop; none without a stop request."""
    if not run.stop_requested:
        return []
    is_below = run.stop_root_request and run.stop_root_request != run.pk
    count = run.stop_calls_started_after_acknowledgement
    facts = [
        Fact(_("Asked at"), at=run.stop_requested_at),
        Fact(_("Asked by"), run.stop_requester or ""),
        Fact(_("By way of"), StopVia(run.stop_via).label if run.stop_via else ""),
        Fact(_("Asked of"), _("the run above") if is_below else "", run=run.stop_root_request),
        Fact(_("Reason"), run.stop_reason),
        Fact(_("Mode"), run.stop_mode),
        Fact(_("Made harder at"), at=run.stop_escalated_at),
        Fact(_("Made harder by"), run.stop_escalator or ""),
        Fact(_("Planned to cut the calls in flight at"), at=run.stop_abort_at),
        Fact(_("Planned to give up at"), at=run.stop_abandon_at),
        Fact(_("The worker received it at"), at=run.stop_acknowledged_at),
        Fact(_("It took effect at"), at=run.stop_observed_at),
        Fact(
            _("Calls started after the worker received it"),
            str(count) if run.stop_observed_at else "",
        ),
        Fact(_("Calls cut"), str(run.stop_calls_cut or "")),
        Fact(_("The run ended at"), at=run.finished_at),
        Fact(_("The run finished first"), _("yes") if run.stop_finished_first else ""),
        Fact(_("Given up"), _("yes") if run.stop_abandoned else ""),
        *_left_behind(run),
    ]
    return [fact for fact in facts if fact.value or fact.at]
