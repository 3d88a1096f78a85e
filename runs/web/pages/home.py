"""The first page: what can be run, and what was."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from runs.conf import conf
from runs.models import RunRecord
from runs.wording.run import STAND_IN_NOTE

from .rows import as_rows, for_rows
from .shell import render_page

__all__ = ["home"]

NEWEST_RUNS = 8


@require_safe
@login_required
@ensure_csrf_cookie
def home(request: HttpRequest) -> HttpResponse:
    own = RunRecord.objects.visible_to(request.user).filter(owner_id=request.user.pk, parent=None)
    context = {
        "section": "agents",
        "rows": as_rows(for_rows(own)[:NEWEST_RUNS], request.user),
        "is_first_page": True,
        "only_mine": True,
        "stand_in_note": STAND_IN_NOTE if conf().llm.is_stand_in else "",
    }
    return render_page(request, "runs/home.html", context)
