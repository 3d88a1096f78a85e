"""What machines ask a process about itself: part of the site, and all that a worker serves."""

from __future__ import annotations

from django.urls import re_path

from project import errors
from runs.ops import health, metrics_view

__all__ = ["probes", "urlpatterns"]

probes = [
    re_path(r"^health/live/?$", health.live, name="health-live"),
    re_path(r"^health/ready/?$", health.ready, name="health-ready"),
    re_path(r"^metrics/?$", metrics_view.metrics, name="metrics"),
]

# For programs alone: no page says what is not there.
urlpatterns = [*probes, re_path("", errors.no_such_address)]
