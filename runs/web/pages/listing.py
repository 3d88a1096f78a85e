"""The lists of runs: the newest on the first page, and all past runs with filters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from rest_framework.request import Request

from runs.db.users import may
from runs.models import SEE_ALL, RunRecord
from runs.web.api.errors import InvalidFilter, flat
from runs.web.api.requests.pagination import Page, read_page
from runs.web.signed_in import signed_in_only
from runs.wire import usage_of
from runs.wording.ladder import next_rung, wire_part
from runs.wording.run import usage_text
from runs.wording.time import duration, seconds_between

from .filters import Filters
from .shell import agent_titles, render_page

__all__ = ["home", "runs_page"]

NEWEST_RUNS = 8


@require_safe
@signed_in_only
@ensure_csrf_cookie
def home(request: HttpRequest) -> HttpResponse:
    """Show the agents, and the newest runs of the user."""
    own = RunRecord.objects.visible_to(request.user).filter(owner_id=request.user.pk, parent=None)
    context = {
        "section": "agents",
        "rows": _rows(_for_rows(own)[:NEWEST_RUNS], request.user),
        "is_first_page": True,
        "only_mine": True,
    }
    return render_page(request, "runs/home.html", context)


@require_safe
@signed_in_only
@ensure_csrf_cookie
def runs_page(request: HttpRequest) -> HttpResponse:
    """Show the runs that the user may see and that the filters of the address find."""
    filters = Filters(request.GET)
    visible = RunRecord.objects.visible_to(request.user)
    page = Page([])
    if not filters.errors:
        try:
            page = read_page(Request(request), _for_rows(filters.narrow(visible)))
        except InvalidFilter as error:
            filters.errors |= flat(error.detail)
    context = {
        "section": "runs",
        "rows": _rows(page.runs, request.user),
        "filters": filters,
        "older": urlsplit(page.next or "").query,
        "newer": urlsplit(page.previous or "").query,
        "is_first_page": "cursor" not in request.GET,
        "sees_all": may(request.user, SEE_ALL),
    }
    return render_page(request, "runs/runs.html", context, status=400 if filters.errors else 200)


def _for_rows(runs: QuerySet[RunRecord]) -> QuerySet[RunRecord]:
    """Make a query read what the lines show, and leave out the large columns."""
    runs = runs.annotate(caller=F("parent__agent")).select_related("owner")
    return runs.defer("result", "partial_result", "error")


def _rows(runs: Iterable[RunRecord], user: User | AnonymousUser) -> list[dict[str, Any]]:
    """Return what ``rows.html`` shows of each run, in the words that the feed sends later."""
    titles = agent_titles()
    now = timezone.now()
    rows = []
    for run in runs:
        caller = getattr(run, "caller", None)
        took = seconds_between(run.started_at, run.finished_at or now) if run.started_at else None
        row = {
            "record": run,
            "title": titles.get(run.agent, run.agent),
            "caller": titles.get(caller, caller) if caller else "",
            "duration": "" if took is None else duration(took),
            "ticks_since": None if run.is_terminal else run.started_at,
            "usage": usage_text(usage_of(run)),
            "offer": next_rung(wire_part(run)) if run.stop_requested else None,
            "may_be_stopped": not run.is_terminal and run.may_be_stopped_by(user),
        }
        rows.append(row)
    return rows
