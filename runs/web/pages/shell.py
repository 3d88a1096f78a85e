"""The frame of every page: the agents, the user's own past runs, how many are running."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from agents import registry
from runs.conf import conf
from runs.models import RunRecord
from runs.quotas.reading import quotas_of
from runs.wording.quotas import near_text
from runs.wording.run import STAND_IN_NOTE
from runs.wording.status import look

__all__ = ["agent_titles", "frame", "render_page"]

PAST_RUNS = 15


def agent_titles() -> dict[str, str]:
    """Map the name of each agent that can be run to its title."""
    return {agent.name: agent.title for agent in registry.all()}


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any], status: int = 200
) -> HttpResponse:
    """Render a page in its frame, for a user who is signed in.

    ``section`` in the context names the page's entry in the header: agents or runs.
    """
    response = render(request, template, {**frame(request), **context}, status=status)
    response.headers["Cache-Control"] = "no-store"
    return response


def frame(request: HttpRequest) -> dict[str, Any]:
    """Return what the frame of a page shows to the user."""
    # Without those that agents called.
    own = RunRecord.objects.filter(owner_id=request.user.pk, parent=None)
    # A whole record would carry its result.
    newest = own.only("agent", "status", "created_at", "stop_requested_at")[:PAST_RUNS]
    titles = agent_titles()
    return {
        "agents": registry.all(),
        "past_runs": [
            {
                "record": run,
                "title": titles.get(run.agent, run.agent),
                "look": look(run.shown_status),
            }
            for run in newest
        ],
        "quota_notices": [
            near_text(quota.name, quota.used, quota.allowed)
            for quota in quotas_of(request.user.pk)
            if quota.allowed is not None and quota.is_near
        ],
        "active_count": own.active().count(),
        "stand_in_note": STAND_IN_NOTE if conf().llm.is_stand_in else "",
    }
