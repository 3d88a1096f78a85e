"""One agent's page: what it does, and a form to run it.

The browser draws the form from the schema in the page; this view gives its first values. The API
starts the run.
"""

from __future__ import annotations

import uuid

from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from agents import registry
from agents.exceptions import AgentNotFound
from runs.conf import conf
from runs.models import RunRecord
from runs.web import addresses
from runs.web.signed_in import signed_in_only

from .shell import render_page

__all__ = ["agent_page"]

_SOME_RUN = uuid.UUID(int=0)


@require_safe
@signed_in_only
@ensure_csrf_cookie
def agent_page(request: HttpRequest, name: str) -> HttpResponse:
    """Show an agent; ``?from=<run id>`` fills the form with that run's input."""
    try:
        agent = registry.get(name)
    except AgentNotFound as error:
        raise Http404 from error
    source = _find_source(request, name)
    missing = _(
        "The run to copy is not there, or is another agent's. The form starts with its defaults."
    )
    context = {
        "section": "agents",
        "agent": agent,
        "source": source,
        "notice": "" if source or "from" not in request.GET else missing,
        "data": {
            "agent": name,
            "schema": agent.input_schema,
            "source": str(source.pk) if source else "",
            "input": source.input_record.value if source else None,
            "max_bytes": conf().max_input_bytes,
            "addresses": {
                "start": reverse("halting:api-runs"),
                "run": reverse("halting:page-run", args=[_SOME_RUN]).replace(
                    str(_SOME_RUN), "{id}"
                ),
                "sign_in": addresses.sign_in(),
            },
        },
    }
    return render_page(request, "runs/agent.html", context)


def _find_source(request: HttpRequest, agent: str) -> RunRecord | None:
    """Return the run whose input fills the form: one of this agent's that the user may see."""
    try:
        id = uuid.UUID(request.GET.get("from", ""))
    except ValueError:
        return None
    runs = RunRecord.objects.visible_to(request.user).select_related("input_record")
    return runs.filter(pk=id, agent=agent).first()
