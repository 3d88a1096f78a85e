"""Past runs, with filters."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from rest_framework.request import Request

from runs.models import RunRecord
from runs.web.api.errors import InvalidFilter, flat
from runs.web.api.requests.pagination import Page, read_page

from .filters import Filters
from .rows import as_rows, for_rows
from .shell import render_page

__all__ = ["runs_page"]


@require_safe
@login_required
@ensure_csrf_cookie
def runs_page(request: HttpRequest) -> HttpResponse:
    filters = Filters(request.GET)
    visible = RunRecord.objects.visible_to(request.user)
    page = Page([])
    if not filters.errors:
        try:
            page = read_page(Request(request), for_rows(filters.narrow(visible)))
        except InvalidFilter as error:
            filters.errors |= flat(error.detail)
    context = {
        "section": "runs",
        "rows": as_rows(page.runs, request.user),
        "filters": filters,
        "older": _query(page.next),
        "newer": _query(page.previous),
        "is_first_page": "cursor" not in request.GET,
        "sees_all": request.user.has_perm("runs.view_runrecord"),
    }
    return render_page(request, "runs/runs.html", context, status=400 if filters.errors else 200)


def _query(address: str | None) -> str:
    return urlsplit(address).query if address else ""
