"""What surrounds every page: the agents, the person's own past runs, how many are going on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from agents import registry
from runs.models import RunRecord
from runs.wording.status import Look, look

__all__ = ["PastRun", "agent_title", "agent_titles", "past_runs", "render_page"]

PAST_RUNS = 15


@dataclass(frozen=True, slots=True)
class PastRun:
    """One line of the sidebar."""

    record: RunRecord
    title: str
    look: Look


def agent_title(name: str) -> str:
    """Return an agent's title, or its name if there is no such agent any more."""
    return agent_titles().get(name, name)


def agent_titles() -> dict[str, str]:
    """Map the name of each agent that can be run to its title."""
    return {agent.name: agent.title for agent in registry.all()}


def past_runs(user: User | AnonymousUser, count: int = PAST_RUNS) -> list[PastRun]:
    """Return the newest runs that ``user`` began, those that agents called left out."""
    if not user.is_authenticated:
        return []
    runs = RunRecord.objects.filter(owner=user, parent=None)
    # A record carries its whole result.
    runs = runs.only("agent", "status", "created_at", "stop_requested_at")
    titles = agent_titles()
    return [
        PastRun(record, titles.get(record.agent, record.agent), look(record.shown_status))
        for record in runs[:count]
    ]


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any] | None = None, status: int = 200
) -> HttpResponse:
    """Render a page with all that surrounds it.

    ``section`` in the context says which entry of the header it belongs to: agents or runs.
    """
    user: Any = request.user
    surroundings: dict[str, Any] = {"agents": [], "past_runs": [], "active_count": 0}
    if user.is_authenticated:
        surroundings = {
            "agents": registry.all(),
            "past_runs": past_runs(user),
            "active_count": RunRecord.objects.filter(owner=user, parent=None).active().count(),
        }
    response = render(request, template, {**surroundings, **(context or {})}, status=status)
    response.headers["Cache-Control"] = "no-store"
    return response
