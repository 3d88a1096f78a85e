"""Every address that a site includes: the pages, the REST API, and the probes."""

from __future__ import annotations

from django.urls import include, path

from runs.asgi.probe_urls import probes

urlpatterns = [
    *probes,  # of Django's test client; the ASGI application answers them without middleware
    path("app/", include("runs.web.pages.urls")),
    path("", include("runs.web.api.urls")),
]
