"""One agent's page: what it does, and a form to run it."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from agents import registry
from agents.exceptions import AgentNotFound

from .shell import render_page

__all__ = ["agent_page"]


@require_safe
@login_required
@ensure_csrf_cookie
def agent_page(request: HttpRequest, name: str) -> HttpResponse:
    try:
        agent = registry.get(name)
    except AgentNotFound as error:
        raise Http404 from error
    return render_page(request, "runs/agent.html", {"agent": agent})
