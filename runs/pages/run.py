"""One run's page, and what it asks the server for beside the feed."""

from __future__ import annotations

import uuid

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from ..api.stopping import StopView
from ..models import RunRecord
from ..wire import for_wire
from .shell import agent_title, render_page

__all__ = [
    "PageStopView",
    "download",
    "input_fragment",
    "result_fragment",
    "run_again",
    "run_page",
]


class PageStopView(StopView):
    """The API's, for the page's own button."""


@require_safe
@login_required
@ensure_csrf_cookie
def run_page(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    run = get_object_or_404(for_wire(RunRecord.objects.visible_to(request.user)), pk=id)
    return render_page(request, "runs/run.html", {"run": run, "title": agent_title(run.agent)})


@require_POST
@login_required
def run_again(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    raise Http404


@require_safe
@login_required
def result_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    raise Http404


@require_safe
@login_required
def input_fragment(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    raise Http404


@require_safe
@login_required
def download(request: HttpRequest, id: uuid.UUID, what: str) -> HttpResponse:
    raise Http404
