"""The pieces of a run's page that the server draws again when there is something new in them."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from runs.models import RunEvent, RunRecord
from runs.queue.limits import find_obstacle
from runs.status import STOPPING, Status
from runs.web.feed.reading import read_snapshots
from runs.wording.run import Words, queued_text

from .found import find_run
from .receipt import stop_facts
from .values.input_fields import input_fields
from .values.rendering import show

__all__ = [
    "input_fragment",
    "receipt_context",
    "receipt_fragment",
    "result_context",
    "result_fragment",
]


@require_safe
@login_required
def result_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Draw what the run has made, or why there is nothing yet."""
    return _fragment(request, "result", result_context(find_run(request, id)))


@require_safe
@login_required
def input_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Draw what the run was asked."""
    run = find_run(request, id)
    fields = input_fields(run.agent, run.input_record.value)
    return _fragment(request, "input", {"fields": fields, "download": _download(run, "input")})


@require_safe
@login_required
def receipt_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Draw who stopped the run, why, and what came of it; ``?tz=`` is the reader's time zone."""
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
    return {"sentences": words["receipt"], "facts": stop_facts(run)}


def _fragment(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    response = render(request, f"runs/fragments/{name}.html", context)
    response.headers["Cache-Control"] = "no-store"
    return response


def _download(run: RunRecord, what: str) -> str:
    return reverse("page-download", kwargs={"id": run.pk, "what": what})


def _why_nothing(run: RunRecord) -> str:
    match run.shown_status:
        case Status.QUEUED:
            return _("No result yet: %(why)s") % {"why": _why_queued(run)}
        case Status.RUNNING:
            return _("No result yet: it is still running.")
        case str(status) if status == STOPPING:
            return _("It is stopping. What it has so far will show here.")
        case Status.STOPPED if run.started_at is None:
            return _("There is no result: it was stopped before it had begun.")
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
