"""Signing in and out, and the change of a password: Django's views in the look of the pages."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.views import LoginView, LogoutView
from django.contrib.auth.views import PasswordChangeView as DjangosPasswordChangeView
from django.http import HttpRequest, HttpResponse
from django.urls import reverse_lazy
from django.utils.translation import gettext as _

from runs.identity import actors, backoff
from runs.ops.accounts import find_open_demo_users

from .shell import frame

__all__ = ["PasswordChangeView", "SignInView", "SignOutView"]


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


class _PasswordForm(PasswordChangeForm):
    """Counts wrong old passwords as sign-ins are counted: a stolen session must not guess."""

    address: str = ""

    def clean_old_password(self) -> str:
        attempt = backoff.begin(self.user.get_username(), self.address)
        old: str = super().clean_old_password()
        attempt.succeed()
        return old


class PasswordChangeView(DjangosPasswordChangeView):
    """Change one's own password. The user's other sessions and all API tokens end with the old."""

    template_name = "runs/password.html"
    success_url = reverse_lazy("halting:page-home")
    form_class = _PasswordForm

    def get_form(self, form_class: Any = None) -> Any:
        form: Any = super().get_form(form_class)
        form.address = actors.address_of(self.request)
        return form

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), **frame(self.request)}

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        words = _("Your password is changed. Your other sessions and your API tokens have ended.")
        messages.success(self.request, words)
        return response
