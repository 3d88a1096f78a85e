"""The addresses of the REST API; the slash at their end is optional."""

from __future__ import annotations

from collections.abc import Iterator

from django.urls import URLPattern, re_path
from rest_framework.views import APIView

from . import documents, identity, stop_views, views


def _patterns() -> Iterator[URLPattern]:
    run = "runs/(?P<id>[^/]+)"
    for name, address, view in (
        ("api-agents", "agents", views.AgentsView),
        ("api-runs", "runs", views.RunsView),
        ("api-stop-many", "runs/stop", stop_views.StopManyView),
        ("api-run", run, views.RunView),
        ("api-stop", f"{run}/stop", stop_views.StopView),
        ("api-events", f"{run}/events", views.EventsView),
        ("api-token", "api-token", identity.TokenView),
        ("api-schema", "api/schema", documents.SchemaView),
        ("api-docs", "api/docs", documents.DocsView),
    ):
        yield from _with_and_without_slash(name, address, view)


def _with_and_without_slash(
    name: str, address: str, view: type[APIView]
) -> tuple[URLPattern, URLPattern]:
    # \Z, not $: that would let a line feed through. OpenAPI knows the first one only.
    return (
        re_path(rf"^{address}\Z", view.as_view(), name=name),
        re_path(rf"^{address}/\Z", view.as_view(schema=None)),
    )


urlpatterns = list(_patterns())
