"""One agent's page: what it does, and a form to run it.

The form is drawn in the browser, from the schema that the page brings along; this view says what
the form begins with. Starting the run is the API's business.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from agents import registry
from agents.exceptions import AgentNotFound
from agents.registry import AgentDefinition
from runs.conf import conf
from runs.models import RunRecord
from runs.wording.run import STAND_IN_NOTE

from .shell import render_page

__all__ = ["agent_page"]

_SOME_RUN = uuid.UUID(int=0)


@require_safe
@login_required
@ensure_csrf_cookie
def agent_page(request: HttpRequest, name: str) -> HttpResponse:
    """Show an agent; ``?from=<run id>`` fills the form with that run's input."""
    try:
        agent = registry.get(name)
    except AgentNotFound as error:
        raise Http404 from error
    source = _find_source(request, agent)
    context = {
        "section": "agents",
        "agent": agent,
        "source": source,
        "notice": "" if source or "from" not in request.GET else _missing_source(),
        "stand_in_note": STAND_IN_NOTE if conf().llm.is_stand_in else "",
        "data": _data(agent, source),
    }
    return render_page(request, "runs/agent.html", context)


def _find_source(request: HttpRequest, agent: AgentDefinition) -> RunRecord | None:
    """Return the run to begin with: one of this agent's, that this person may see."""
    try:
        id = uuid.UUID(request.GET.get("from", ""))
    except ValueError:
        return None
    runs = RunRecord.objects.visible_to(request.user).select_related("input_record")
    return runs.filter(pk=id, agent=agent.name).first()


def _missing_source() -> str:
    return _("The run to begin with is not there, or is another agent's. The form begins afresh.")


def _data(agent: AgentDefinition, source: RunRecord | None) -> dict[str, Any]:
    """Return what the page's script needs, as JSON."""
    return {
        "agent": agent.name,
        "schema": agent.input_schema,
        "source": str(source.pk) if source else "",
        "input": source.input_record.value if source else None,
        "max_bytes": conf().max_input_bytes,
        "addresses": {
            "start": reverse("api-runs"),
            "run": reverse("page-run", kwargs={"id": _SOME_RUN}).replace(str(_SOME_RUN), "{id}"),
            "sign_in": reverse("login"),
        },
    }
