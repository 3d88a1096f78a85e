"""The page of a user's API tokens: see, make and revoke them. It works without a script."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from runs.conf import conf
from runs.identity import tokens
from runs.identity.models import MAX_NAME_LENGTH
from runs.web.signed_in import signed_in_only

from .shell import render_page

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django_stubs_ext import StrOrPromise

__all__ = ["revoke_token", "tokens_page"]

_DAYS: dict[int, StrOrPromise] = {
    1: gettext_lazy("1 day"),
    7: gettext_lazy("7 days"),
    30: gettext_lazy("30 days"),
    90: gettext_lazy("90 days"),
}
_LONGEST = 0  # as long as the server allows


class _TokenForm(forms.Form):
    name = forms.CharField(max_length=MAX_NAME_LENGTH)
    days = forms.TypedChoiceField(coerce=int, choices=lambda: list(_choices().items()))


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in_only
def tokens_page(request: HttpRequest) -> HttpResponse:
    """Show the user's tokens; after a POST with a new one, whose key is shown this one time."""
    user = cast("User", request.user)
    form = _TokenForm(request.POST or None)
    key = ""
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        seconds = timedelta(days=days).total_seconds() if days else None
        try:
            key, _token = tokens.create(user, name=form.cleaned_data["name"], seconds=seconds)
        except tokens.TooManyTokens:
            words = _("You have %(count)d tokens. Revoke one that you don't need first.")
            form.add_error("name", words % {"count": tokens.MOST_PER_USER})
    is_wrong = bool(form.errors)
    context: dict[str, Any] = {
        "form": form,
        "key": key,
        "tokens": tokens.live_of(user),
        "choices": _choices(),
        "chosen_days": str(form["days"].value() or 30),
        "max_name_length": MAX_NAME_LENGTH,
        "name": form["name"].value() or "" if is_wrong else "",
    }
    return render_page(request, "runs/tokens.html", context, status=400 if is_wrong else 200)


@require_POST
@signed_in_only
def revoke_token(request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """End one of the user's tokens, and show the others."""
    if not tokens.revoke(cast("User", request.user), id):
        raise Http404
    # A site may have no messages.
    messages.success(request, _("The token is revoked."), fail_silently=True)
    return HttpResponseRedirect(reverse("halting:page-tokens"))


def _choices() -> dict[int, StrOrPromise]:
    """Return how long a new token may last, in days, with the words for it."""
    longest = conf().api_token_days
    if not longest:
        return {**_DAYS, _LONGEST: _("until it is revoked")}
    shorter = {days: words for days, words in _DAYS.items() if days < longest}
    return {**shorter, _LONGEST: _("%(days)g days") % {"days": longest}}
