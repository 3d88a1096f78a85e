"""Past runs, with filters."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from .shell import render_page

__all__ = ["runs_page"]


@require_safe
@login_required
@ensure_csrf_cookie
def runs_page(request: HttpRequest) -> HttpResponse:
    return render_page(request, "runs/runs.html")
