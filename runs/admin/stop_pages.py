"""The addresses of the admin that stop runs: one at once, many after a page to confirm.

The page to confirm carries the ids of the runs that it shows, and exactly these are stopped: a run
that starts or comes to match the filter meanwhile is not. All ids travel in one field of the form.
Django's own protocol takes a field for each id and refuses more than 1,000 fields. It would also
drop a run that has left the filter meanwhile, and that run would have no outcome.

``stopping`` decides which runs this user may stop, whatever ids arrive here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agents.cancellation import StopMode
from runs.actions import stopping

from ..exceptions import RunAlreadyFinished, StopNotPermitted
from ..models import MAX_REASON_LENGTH, RunRecord, StopVia
from . import outcomes
from .read_only import ReadOnlyAdmin
from .selection import Selection

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["StopForm", "StopPages"]

MOST_SHOWN = 100  # runs that the page to confirm names one by one

_MODE_WORDS: dict[StopMode, StrOrPromise] = {
    StopMode.GRACEFUL: gettext_lazy("Let the calls in flight complete, and refuse the next ones"),
    StopMode.ABORT: gettext_lazy("Cut the calls in flight as well"),
    StopMode.ABANDON: gettext_lazy("Give up on code that never comes back"),
}


class StopForm(forms.Form):
    """How, and why."""

    mode = forms.ChoiceField(
        label=gettext_lazy("How"),
        choices=[(str(mode), _MODE_WORDS[mode]) for mode in stopping.AVAILABLE_MODES],
        initial=str(stopping.AVAILABLE_MODES[0]),
        widget=forms.RadioSelect,
    )
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=MAX_REASON_LENGTH,
        required=False,
        help_text=gettext_lazy("Kept on each run's receipt and in the history."),
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, is_everything: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_everything:
            word = _("everything")
            self.fields["word"] = forms.CharField(
                label=_("No filter is set. To stop all of these runs, write the word “%(word)s”")
                % {"word": word},
                validators=[_is(word)],
                widget=forms.TextInput(attrs={"autocomplete": "off", "size": "16"}),
            )


def _is(word: str) -> Any:
    def validate(value: str) -> None:
        if value.strip().casefold() != word.casefold():
            raise forms.ValidationError(_("Write the word “%(word)s”.") % {"word": word})

    return validate


class StopPages(ReadOnlyAdmin):
    """The part of the runs' admin that stops them."""

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Return whether the action and its addresses exist; Django looks for this name."""
        return bool(request.user.has_perm("runs.stop_runrecord"))

    def get_urls(self) -> list[URLPattern]:
        pages: dict[str, tuple[str, Callable[..., HttpResponse]]] = {
            "stop_matching": ("stop-matching/", self.stop_matching),
            "stop_shown": ("stop/", self.stop_shown),
            "stop": ("<uuid:id>/stop/", self.stop_one),
        }
        own = [
            path(where, self.admin_site.admin_view(view), name=f"runs_runrecord_{name}")
            for name, (where, view) in pages.items()
        ]
        return own + super().get_urls()

    # One run.

    def stop_one(self, request: HttpRequest, id: uuid.UUID) -> HttpResponse:
        """Stop a run, for the button on its line; a script gets JSON, a form its list back."""
        if request.method != "POST" or not self.has_view_permission(request):
            raise Http404
        run = self.get_queryset(request).filter(pk=id).first()
        if run is None:
            raise Http404
        user = _user(request)
        try:
            stopping.request_stop(id, via=StopVia.ADMIN, by=user, reason=_reason(request))
            status, code, said = 202, "accepted", _("%(run)s is asked to stop.")
        except StopNotPermitted:
            raise PermissionDenied from None
        except RunRecord.DoesNotExist:
            raise Http404 from None
        except RunAlreadyFinished:
            status, code, said = 409, "run_already_finished", _("%(run)s had finished first.")
        said %= {"run": run}
        if request.get_preferred_type(["text/html", "application/json"]) == "application/json":
            return JsonResponse({"code": code, "detail": said}, status=status)
        self.message_user(request, said, messages.SUCCESS if status == 202 else messages.WARNING)
        return HttpResponseRedirect(_back(request))

    # Many runs: first ask, then stop the runs that were shown.

    @admin.action(permissions=["stop"], description=gettext_lazy("Stop selected runs"))
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[RunRecord]) -> HttpResponse:
        return self._ask(request, queryset, StopForm(), reverse("admin:runs_runrecord_stop_shown"))

    def stop_shown(self, request: HttpRequest) -> HttpResponse:
        """Stop the runs that the page of ``stop_selected`` has shown; a repeat does no harm."""
        self._require_stop_permission(request)
        if request.method != "POST":
            return HttpResponseRedirect(_list_address())
        return self._stop(request, StopForm(request.POST))

    def stop_matching(self, request: HttpRequest) -> HttpResponse:
        """Ask about all runs that match the filters of this address; stop those it has shown."""
        self._require_stop_permission(request)
        try:
            changes = self.get_changelist_instance(request)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{_list_address()}?e=1")
        is_everything = not (changes.has_active_filters or changes.query)
        if request.method == "POST":
            return self._stop(request, StopForm(request.POST, is_everything=is_everything))
        active = changes.get_queryset(request).filter(finished_at=None)
        form = StopForm(is_everything=is_everything)
        return self._ask(request, active, form, request.get_full_path())

    def _ask(
        self, request: HttpRequest, runs: QuerySet[RunRecord], form: StopForm, address: str
    ) -> HttpResponse:
        """Show the effect of a stop of ``runs``; the form goes to ``address``."""
        selection = Selection.of(runs, _user(request))
        context = {
            "title": _("Stop runs"),
            "form": form,
            "only_mode": _only_mode(),
            "address": address,
            "back": _list_address() if form.is_bound else _back(request),
            "selection": selection,
            "count": len(selection.chosen),
            "shown": selection.chosen[:MOST_SHOWN],
            "unshown_count": max(0, len(selection.chosen) - MOST_SHOWN),
            "ids": ",".join(str(id) for id in selection.ids),
        }
        return self._page(request, "stop_selected", context)

    def _stop(self, request: HttpRequest, form: StopForm) -> HttpResponse:
        ids = _read_ids(request.POST.get("runs", ""))
        if not form.is_valid():
            shown = self.get_queryset(request).filter(pk__in=ids)
            return self._ask(request, shown, form, request.get_full_path())
        given = form.cleaned_data
        stopped = stopping.stop_many(
            ids, by=_user(request), via=StopVia.ADMIN, mode=given["mode"], reason=given["reason"]
        )
        context = {
            "title": _("Outcome of the stop"),
            "counts": outcomes.counts(stopped),
            "lines": outcomes.lines(stopped),
        }
        return self._page(request, "stop_outcome", context)

    def _require_stop_permission(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise Http404
        if not self.has_stop_permission(request):
            raise PermissionDenied

    def _page(
        self, request: HttpRequest, template: str, context: dict[str, Any]
    ) -> TemplateResponse:
        whole = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        return TemplateResponse(request, f"admin/runs/runrecord/{template}.html", whole)


def _only_mode() -> tuple[str, StrOrPromise] | None:
    """Return the mode that needs no question, while there is no other."""
    modes: tuple[StopMode, ...] = stopping.AVAILABLE_MODES
    return None if len(modes) > 1 else (str(modes[0]), _MODE_WORDS[modes[0]])


def _read_ids(text: str) -> list[uuid.UUID]:
    try:
        return [uuid.UUID(word) for word in text.split(",")]
    except ValueError as error:
        raise BadRequest("The field `runs` holds ids, separated by commas.") from error


def _reason(request: HttpRequest) -> str:
    """Return the reason, if there is one: a field of a form, or of a script's JSON."""
    given: Any = request.POST
    if request.content_type == "application/json":
        try:
            given = json.loads(request.body or b"{}")
        except ValueError as error:
            raise BadRequest("The body is not JSON.") from error
    reason = given.get("reason", "") if isinstance(given, Mapping) else None
    form = StopForm({"mode": stopping.AVAILABLE_MODES[0], "reason": reason})
    if not isinstance(reason, str) or not form.is_valid():
        raise BadRequest("The reason is no text of at most 500 characters.")
    return str(form.cleaned_data["reason"])


def _back(request: HttpRequest) -> str:
    """Return the list with its filters; the browser says where it came from."""
    came_from = request.headers.get("Referer", "")
    here = {request.get_host()}
    is_ours = url_has_allowed_host_and_scheme(came_from, here, require_https=request.is_secure())
    return came_from if is_ours else _list_address()


def _list_address() -> str:
    return reverse("admin:runs_runrecord_changelist")


def _user(request: HttpRequest) -> Any:
    return request.user  # signed in: the admin has checked that
