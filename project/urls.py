"""Every address of the project."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from project import errors
from project.probe_urls import probes
from runs.web.pages.signing import SignInView, SignOutView

handler400 = errors.bad_request
handler403 = errors.permission_denied
handler404 = errors.not_found
handler500 = errors.server_error

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="page-home"), name="home"),
    path("app/", include("runs.web.pages.urls")),
    # For pages that name no icon of their own: browsers ask for it all the same.
    path("favicon.ico", RedirectView.as_view(url=static("runs/icon.svg"))),
    # As a rule answered before they come here: project/probes.py.
    *probes,
    path("accounts/login/", SignInView.as_view(), name="login"),
    path("accounts/logout/", SignOutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("", include("runs.web.api.urls")),
    # Last: what begins like the API but isn't there answers in its shape, in debug too.
    re_path(r"^(?:runs|agents|api|api-token|health)(?:/|$)", errors.no_such_address),
]
