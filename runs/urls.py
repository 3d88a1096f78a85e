"""Every address of ours, for a site to include at once, under any prefix.

    path("tools/halting/", include("runs.urls"))

The pages, the REST API and the probes. Signing in and out, the admin and ``/`` are the site's own.
"""

from __future__ import annotations

from django.urls import include, path, re_path

from runs.asgi.probe_urls import probes
from runs.web import error_pages
from runs.web.self_contained import with_self_contained_views

__all__ = ["app_name", "urlpatterns"]

app_name = "halting"

urlpatterns = [
    *with_self_contained_views(
        [
            path("app/", include("runs.web.pages.urls")),
            path("", include("runs.web.api.urls")),
        ]
    ),
    *probes,  # of Django's test client and WSGI; runs/asgi gives probes a urlconf of their own
    # Last: an unknown address below a run gets the API's JSON, in debug mode too. Not below the
    # API's other prefixes, where a site that includes us at its root may have pages.
    re_path(r"^runs/", error_pages.no_such_address),
]
