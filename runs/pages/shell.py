"""What surrounds every page: the agents, the person's own past runs, how many are going on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from agents import registry

from ..models import RunRecord
from ..wording import Look, look

__all__ = ["PastRun", "past_runs", "render_page"]

PAST_RUNS = 15


@dataclass(frozen=True, slots=True)
class PastRun:
    """One line of the sidebar."""

    record: RunRecord
    title: str
    look: Look


def agent_title(name: str) -> str:
    """Return an agent's title, or its name if there is no such agent any more."""
    known = {definition.name: definition.title for definition in registry.all()}
    return known.get(name) or name


def past_runs(user: User | AnonymousUser, count: int = PAST_RUNS) -> list[PastRun]:
    """Return the newest runs that ``user`` began, those that agents called left out."""
    if not user.is_authenticated:
        return []
    runs = RunRecord.objects.filter(owner=user, parent=None)
    return [
        PastRun(record, agent_title(record.agent), look(record.shown_status))
        for record in runs[:count]
    ]


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any] | None = None, status: int = 200
) -> HttpResponse:
    """Render a page with all that surrounds it."""
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
