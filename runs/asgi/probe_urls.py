"""The addresses at which programs ask a process about itself. A worker serves no others."""

from __future__ import annotations

from django.urls import re_path

from runs.ops import health, metrics_view
from runs.web import error_pages

__all__ = ["handler500", "probes", "urlpatterns"]

probes = [
    re_path(r"^health/live/?$", health.live, name="health-live"),
    re_path(r"^health/ready/?$", health.ready, name="health-ready"),
    re_path(r"^metrics/?$", metrics_view.metrics, name="metrics"),
]

# Only programs come here, so a wrong address gets JSON and no page.
handler500 = error_pages.server_error

urlpatterns = [*probes, re_path("", error_pages.no_such_address)]
