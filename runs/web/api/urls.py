"""The addresses of the REST API; the slash at their end is optional."""

from __future__ import annotations

from django.urls import re_path

from . import documents, identity, limit_views, stop_views, views

_RUN = "runs/(?P<id>[^/]+)"
_VIEWS = {
    "api-agents": ("agents", views.AgentsView),
    "api-runs": ("runs", views.RunsView),
    "api-stop-many": ("runs/stop", stop_views.StopManyView),
    "api-run": (_RUN, views.RunView),
    "api-stop": (f"{_RUN}/stop", stop_views.StopView),
    "api-limits": (f"{_RUN}/limits", limit_views.LimitsView),
    "api-events": (f"{_RUN}/events", views.EventsView),
    "api-quotas": ("quotas", views.QuotasView),
    "api-token": ("api-token", identity.TokenView),
    "api-tokens": ("api-tokens", identity.TokensView),
    "api-one-token": ("api-tokens/(?P<id>[^/]+)", identity.OneTokenView),
    "api-schema": ("api/schema", documents.SchemaView),
    "api-docs": ("api/docs", documents.DocsView),
}

urlpatterns = [
    pattern
    for name, (address, view) in _VIEWS.items()
    for pattern in (
        # \Z, not $, which would let a line feed through. OpenAPI has the first of the two only.
        re_path(rf"^{address}\Z", view.as_view(), name=name),
        re_path(rf"^{address}/\Z", view.as_view(schema=None)),
    )
]
