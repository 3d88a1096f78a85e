"""The addresses of the REST API; the slash at their end is optional."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.urls import re_path

from . import documents, identity, limit_views, stop_views, views

__all__ = ["documented", "urlpatterns"]

_RUN = "runs/(?P<id>[^/]+)"
_VIEWS: dict[str, tuple[str, type[views.ApiView]]] = {
    "api-agents": ("agents", views.AgentsView),
    "api-runs": ("runs", views.RunsView),
    "api-start-many": ("runs/batch", views.StartManyView),
    "api-stop-many": ("runs/stop", stop_views.StopManyView),
    "api-run": (_RUN, views.RunView),
    "api-stop": (f"{_RUN}/stop", stop_views.StopView),
    "api-limits": (f"{_RUN}/limits", limit_views.LimitsView),
    "api-events": (f"{_RUN}/events", views.EventsView),
    "api-quotas": ("quotas", views.QuotasView),
    "api-token": ("api-token", identity.TokenView),
    "api-tokens": ("api-tokens", identity.TokensView),
    "api-one-token": ("api-tokens/(?P<id>[^/]+)", identity.OneTokenView),
}

#: What our OpenAPI document has. \Z, not $, which would let a line feed through.
documented = [re_path(rf"^{address}\Z", view.as_view()) for address, view in _VIEWS.values()]

# Without ``schema=None`` our views would also be in the document that a site makes of its own API,
# where their components would clash with others of the same names.
_views: dict[str, tuple[str, Any]] = {
    **{name: (address, view.as_view(schema=None)) for name, (address, view) in _VIEWS.items()},
    "api-schema": ("api/schema", documents.SchemaView.as_view(patterns=documented)),
}
# The page needs the scripts of Swagger UI, which this app brings as static files.
if apps.is_installed("drf_spectacular_sidecar"):
    _views["api-docs"] = ("api/docs", documents.docs)

urlpatterns = [
    pattern
    for name, (address, view) in _views.items()
    for pattern in (
        re_path(rf"^{address}\Z", view, name=name),
        re_path(rf"^{address}/\Z", view),
    )
]
