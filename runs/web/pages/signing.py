"""Signing in and out: Django's views in the look of the pages."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from runs.ops.accounts import find_open_demo_users

__all__ = ["SignInView", "SignOutView"]


class SignInView(LoginView):
    """Sign in and redirect to ``?next=``; a user who is signed in is redirected at once."""

    template_name = "runs/login.html"
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {
            **super().get_context_data(**kwargs),
            "leads_elsewhere": REDIRECT_FIELD_NAME in self.request.GET,
            "demo_users": find_open_demo_users() if settings.DEBUG else [],
        }


class SignOutView(LogoutView):
    """Sign out by POST, and say so on the page that follows."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().post(request, *args, **kwargs)
        # After signing out, which empties the session and the messages in it.
        messages.info(request, _("You are signed out."))
        return response
