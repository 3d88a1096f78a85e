"""One run's page, and its two buttons."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from rest_framework.request import Request
from rest_framework.response import Response

from agents import registry
from agents.exceptions import AgentNotFound
from runs.actions import starting
from runs.models import MAX_REASON_LENGTH, RunEvent, RunRecord, StopVia
from runs.status import STOPPING, Status
from runs.web.api.authentication import SessionAuthentication
from runs.web.api.stop_views import StopView
from runs.web.api.views import ApiView, read_id, read_idempotency_key
from runs.web.feed.reading import read_snapshots
from runs.wording.status import LOOKS
from runs.wording.time import duration, in_zone, is_time_zone

from .found import find_run
from .fragments import receipt_context, result_context
from .shell import agent_title, render_page

__all__ = ["PageStopView", "RunAgainView", "run_context", "run_page", "run_state"]

#: Statuses of a run that goes on; the page's own script asks the same of ``data-status``.
_ALIVE = (Status.QUEUED, Status.RUNNING, STOPPING)


@require_safe
@login_required
@ensure_csrf_cookie
def run_page(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Show a run as it is now; the page's script goes on from there."""
    zone = _zone(request)
    with in_zone(zone):
        context = run_context(request, find_run(request, id), zone)
        return render_page(request, "runs/run.html", {"section": "runs", **context})


def run_context(request: HttpRequest, run: RunRecord, zone: str = "") -> dict[str, Any]:
    """Return what a page about ``run`` shows to a reader in ``zone``; the admin's as well."""
    state = _state(request, run, zone)
    # What is drawn must not be older than what the script begins with: of a run that ended between
    # the two it would never hear that anything has changed. The other way round the feed tells it.
    run.refresh_from_db()
    progress = _progress(run)
    return {
        "run": run,
        "title": agent_title(run.agent),
        "parent_title": agent_title(run.parent.agent) if run.parent else "",
        "look": LOOKS[run.shown_status],
        "is_alive": run.shown_status in _ALIVE,
        "may_stop": state["may_stop"],
        "words": state["words"],
        "took": _took(run),
        "edit": _edit(run),
        "progress": progress,
        "most_reason_characters": MAX_REASON_LENGTH,
        "data": {
            **state,
            "progress": progress,
            "looks": _looks(),
            "addresses": _addresses(run),
        },
        **result_context(run),
        **receipt_context(run, state["words"]),
    }


@require_safe
@login_required
def run_state(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Give what the page's script needs to know of a run; ``?tz=`` is the reader's time zone."""
    response = JsonResponse(_state(request, find_run(request, id), request.GET.get("tz", "")))
    response.headers["Cache-Control"] = "no-store"
    return response


class _PageSession(SessionAuthentication):
    """The session alone: pages have no tokens."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"  # without any, DRF would answer 403


class PageStopView(StopView):
    """The API's, for the page's own button."""

    via = StopVia.PAGE
    authentication_classes = [_PageSession]
    schema = None  # it is no part of the API


class RunAgainView(ApiView):
    """Run the same agent with the same input, for the user who asks."""

    authentication_classes = [_PageSession]
    schema = None

    def post(self, request: Request, id: str) -> Response:
        """Answer with the address of the new run's page; of the same key, the same run's."""
        runs = RunRecord.objects.visible_to(self.user).select_related("input_record")
        known = runs.filter(pk=read_id(id)).first()
        if known is None:
            raise Http404
        run, _ = starting.start_run(
            known.agent,
            known.input_record.value,
            owner=self.user,
            idempotency_key=read_idempotency_key(request),
        )
        address = reverse("page-run", kwargs={"id": run.pk})
        return Response({"id": str(run.pk), "address": address}, status=201)


def _state(request: HttpRequest, run: RunRecord, zone: str) -> dict[str, Any]:
    snapshot = read_snapshots([run.pk])[run.pk]
    # What it has made may be large, and is drawn by the server.
    shown = {k: v for k, v in snapshot.run.items() if k not in {"result", "partial_result"}}
    return {
        "run": shown,
        "words": snapshot.words(zone),
        "may_stop": run.may_be_stopped_by(request.user),
        "now": timezone.now().isoformat(),
    }


def _looks() -> dict[str, dict[str, str]]:
    return {
        str(status): {"label": str(look.label), "sign": look.sign, "tone": look.tone}
        for status, look in LOOKS.items()
    }


def _addresses(run: RunRecord) -> dict[str, str]:
    names = ("state", "stop", "again", "result", "input", "receipt")
    id = {"id": run.pk}
    return {
        **{name: reverse(f"page-{name}", kwargs=id) for name in names},
        "run": reverse("api-run", kwargs=id),
        "events": reverse("api-events", kwargs=id),
        "events_download": reverse("page-download", kwargs={**id, "what": "events"}),
        "feed": f"/ws/runs/{run.pk}",
        "sign_in": reverse("login"),
    }


def _took(run: RunRecord) -> str:
    """Say for how long it has been running, or waiting."""
    end = run.finished_at or timezone.now()
    return duration((end - (run.started_at or run.created_at)).total_seconds())


def _edit(run: RunRecord) -> str:
    """Return the address of the agent's form, filled with this run's input, if there is one."""
    try:
        name = registry.get(run.agent).name
    except AgentNotFound:
        return ""
    return f"{reverse('page-agent', kwargs={'name': name})}?from={run.pk}"


def _progress(run: RunRecord) -> dict[str, Any] | None:
    event = RunEvent.objects.filter(run=run, type="progress").order_by("-seq").first()
    return {"seq": event.seq, **event.data} if event else None


def _zone(request: HttpRequest) -> str:
    """Return the time zone that the page's script has left in a cookie, if it is one.

    So a page reads from its first moment as it will when its script has looked it over.
    """
    zone = request.COOKIES.get("timezone", "")
    return zone if is_time_zone(zone) else ""
