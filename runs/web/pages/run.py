"""One run's page, and its two buttons."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from rest_framework.request import Request
from rest_framework.response import Response

from runs.actions import starting
from runs.models import MAX_REASON_LENGTH, RunEvent, RunRecord, StopVia
from runs.web import addresses
from runs.web.api.authentication import SessionAuthentication
from runs.web.api.stop_views import StopView
from runs.web.api.views import ApiView, read_id, read_idempotency_key
from runs.web.feed.reading import read_snapshots
from runs.web.signed_in import signed_in_only
from runs.wording.ladder import is_due
from runs.wording.status import LOOKS
from runs.wording.time import duration, in_zone, seconds_between

from .fragments import find_run, receipt_context, result_context
from .shell import agent_titles, render_page

__all__ = ["PageStopView", "RunAgainView", "run_context", "run_page", "run_state"]


@require_safe
@signed_in_only
@ensure_csrf_cookie
def run_page(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Show a run as it is now; the page's script follows it from there."""
    zone = request.COOKIES.get("timezone", "")  # the script's; it writes instants in it as well
    with in_zone(zone):
        context = run_context(request, find_run(request, id), zone)
        return render_page(request, "runs/run.html", {"section": "runs", **context})


def run_context(request: HttpRequest, run: RunRecord, zone: str = "") -> dict[str, Any]:
    """Return what a page about ``run`` shows to a reader in ``zone``; the admin's as well."""
    state = _state(request, run, zone)
    # Read the record after the state: the feed sends all that is newer than the state, and would
    # not correct a page that was drawn from an older record.
    run.refresh_from_db()
    titles = agent_titles()
    event = RunEvent.objects.filter(run=run, type="progress").order_by("-seq").first()
    progress = {"seq": event.seq, **event.data} if event else None
    took = seconds_between(run.started_at or run.created_at, run.finished_at or timezone.now())
    edit = reverse("halting:page-agent", args=[run.agent]) if run.agent in titles else ""
    looks = {
        str(status): {"label": str(look.label), "sign": look.sign, "tone": look.tone}
        for status, look in LOOKS.items()
    }
    return {
        "run": run,
        "title": titles.get(run.agent, run.agent),
        "parent_title": titles.get(run.parent.agent, run.parent.agent) if run.parent else "",
        "look": LOOKS[run.shown_status],
        "is_alive": not run.is_terminal,
        "may_stop": state["may_stop"],
        "words": state["words"],
        "offer_is_due": is_due(state["words"]["offer"], timezone.now()),
        "took": duration(took),
        "left": _left(run),
        "edit": f"{edit}?from={run.pk}" if edit else "",
        "progress": progress,
        "most_reason_characters": MAX_REASON_LENGTH,
        "data": {
            **state,
            "progress": progress,
            "looks": looks,
            "addresses": _addresses(run),
        },
        **result_context(run),
        **receipt_context(run, state["words"]),
    }


def _left(run: RunRecord) -> str:
    """Return how long a run may still go on; nothing without a deadline, or after a stop."""
    if run.deadline_at is None or run.is_terminal or run.stop_requested:
        return ""
    return duration(seconds_between(timezone.now(), run.deadline_at))


@require_safe
@signed_in_only
def run_state(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Return the state of a run for the page's script; ``?tz=`` is the reader's time zone."""
    response = JsonResponse(_state(request, find_run(request, id), request.GET.get("tz", "")))
    response.headers["Cache-Control"] = "no-store"
    return response


class _PageSession(SessionAuthentication):
    """The session alone: pages have no tokens."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"  # without any, DRF would answer 403


class PageStopView(StopView):
    """The API's view, for the page's button."""

    via = StopVia.PAGE
    authentication_classes = [_PageSession]
    schema = None  # not in the OpenAPI document


class RunAgainView(ApiView):
    """Run the same agent with the same input, for the user who asks."""

    authentication_classes = [_PageSession]
    schema = None

    def post(self, request: Request, id: str) -> Response:
        """Answer with the address of the new run's page; with a repeated key, of the same run."""
        runs = RunRecord.objects.visible_to(self.user).select_related("input_record")
        known = runs.get(pk=read_id(id))
        run, _ = starting.start_run(
            known.agent,
            known.input_record.value,
            owner=self.user,
            idempotency_key=read_idempotency_key(request),
        )
        address = reverse("halting:page-run", kwargs={"id": run.pk})
        return Response({"id": str(run.pk), "address": address}, status=201)


def _state(request: HttpRequest, run: RunRecord, zone: str) -> dict[str, Any]:
    snapshot = read_snapshots([run.pk])[run.pk]
    # The server draws the results, which may be large.
    shown = {k: v for k, v in snapshot.run.items() if k not in {"result", "partial_result"}}
    return {
        "run": shown,
        "words": snapshot.words(zone),
        "may_stop": run.may_be_stopped_by(request.user),
        "now": timezone.now().isoformat(),
    }


def _addresses(run: RunRecord) -> dict[str, str]:
    names = ("state", "stop", "again", "result", "input", "receipt")
    id = {"id": run.pk}
    return {
        **{name: reverse(f"halting:page-{name}", kwargs=id) for name in names},
        "run": reverse("halting:api-run", kwargs=id),
        "events": reverse("halting:api-events", kwargs=id),
        "events_download": reverse("halting:page-download", kwargs={**id, "what": "events"}),
        "page": reverse("halting:page-run", kwargs=id),
        "home": reverse("halting:page-home"),
        "runs": reverse("halting:page-runs"),
        "agents": reverse("halting:page-agent", args=["-"]).removesuffix("-/"),
        "feed": addresses.socket(f"runs/{run.pk}"),
        "sign_in": addresses.sign_in(),
    }
