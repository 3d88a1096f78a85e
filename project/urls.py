"""Every address of this checkout's site: those of runs, its own sign-in, and the admin."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from rest_framework.authtoken.models import TokenProxy

from runs.web import error_pages
from runs.web.pages.signing import PasswordChangeView, SignInView, SignOutView

handler400 = error_pages.bad_request
handler403 = error_pages.permission_denied
handler404 = error_pages.not_found
handler500 = error_pages.server_error

# It would show keys of tokens; runs/admin has the page of ours.
admin.site.unregister(TokenProxy)

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="halting:page-home"), name="home"),
    # Browsers ask for this on pages that name no icon.
    path("favicon.ico", RedirectView.as_view(url=static("runs/icon.svg"))),
    path("accounts/login/", SignInView.as_view(), name="login"),
    path("accounts/logout/", SignOutView.as_view(), name="logout"),
    path("accounts/password_change/", PasswordChangeView.as_view(), name="password_change"),
    path("admin/", admin.site.urls),
    path("", include("runs.urls")),
    # Last: an unknown address under the API's prefixes gets the API's JSON, in debug mode too.
    re_path(f"^{error_pages.API_PREFIXES}", error_pages.no_such_address),
]
