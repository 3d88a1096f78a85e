"""The addresses of the admin that stop runs: one at once, many after a page that asks.

Who may not stop anything finds nothing here: the addresses answer as if they did not exist, or
403. What is stopped, and what is not, ``services`` decides.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agents.cancellation import StopMode
from runs.actions import stopping

from ..exceptions import RunAlreadyFinished, StopNotPermitted
from ..models import MAX_REASON_LENGTH, RunRecord, StopVia
from .outcomes import Outcomes
from .selection import Selection, Snapshot
from .signed import NotSigned

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

    from .run_list import RunRecordAdmin

__all__ = ["StopForm", "ask_about", "ask_about_matching", "outcomes_file", "stop_one", "stop_shown"]

MOST_SHOWN = 100  # runs that the page that asks names one by one

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


# One run.


def stop_one(desk: RunRecordAdmin, request: HttpRequest, id: uuid.UUID) -> HttpResponse:
    """Stop a run, for the button of its line; a script gets JSON, a form its list back."""
    if request.method != "POST" or not desk.has_view_permission(request):
        raise Http404
    run = desk.get_queryset(request).filter(pk=id).first()
    if run is None:
        raise Http404
    try:
        stopping.request_stop(id, via=StopVia.ADMIN, by=_user(request), reason=_reason(request))
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
    desk.message_user(request, said, messages.SUCCESS if status == 202 else messages.WARNING)
    return HttpResponseRedirect(_back(request))


def _reason(request: HttpRequest) -> str:
    """Return what was given as the reason, if anything: a field of a form, or a script's JSON."""
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
    """Return the list as it was, with its filters; the browser says where it came from."""
    came_from = request.headers.get("Referer", "")
    here = {request.get_host()}
    is_ours = url_has_allowed_host_and_scheme(came_from, here, require_https=request.is_secure())
    return came_from if is_ours else _list_address()


def _list_address() -> str:
    return reverse("admin:runs_runrecord_changelist")


# Many: first ask, ...


def ask_about(
    desk: RunRecordAdmin,
    request: HttpRequest,
    runs: QuerySet[RunRecord],
    *,
    is_everything: bool = False,
) -> HttpResponse:
    """Show what a stop of ``runs`` would come to, and ask how and why."""
    user = _user(request)
    selection = Selection.of(runs, user)
    form = StopForm(is_everything=is_everything)
    snapshot = selection.snapshot(is_everything=is_everything)
    context = {
        "selection": selection,
        "shown": selection.chosen[:MOST_SHOWN],
        "unshown_count": max(0, len(selection.chosen) - MOST_SHOWN),
    }
    return _ask(desk, request, form, snapshot, context)


def ask_about_matching(desk: RunRecordAdmin, request: HttpRequest) -> HttpResponse:
    """Ask about all runs that the list, with the filters of this address, would have."""
    _must_stop(desk, request)
    try:
        changes = desk.get_changelist_instance(request)
    except IncorrectLookupParameters:
        return HttpResponseRedirect(f"{_list_address()}?e=1")
    alive = changes.get_queryset(request).filter(finished_at=None)
    return ask_about(desk, request, alive, is_everything=not changes.is_narrowed)


def _ask(
    desk: RunRecordAdmin,
    request: HttpRequest,
    form: StopForm,
    snapshot: Snapshot,
    context: dict[str, Any],
) -> HttpResponse:
    return _page(
        desk,
        request,
        "stop_selected",
        {
            "title": _("Stop runs"),
            "form": form,
            "only_mode": _only_mode(),
            "back": _back(request),
            "count": len(snapshot.runs),
            "over_count": snapshot.over_count,
            "snapshot": snapshot.sign(_user(request)),
            **context,
        },
    )


def _only_mode() -> tuple[str, StrOrPromise] | None:
    """Return the mode that needs no question, while there is no other."""
    modes: tuple[StopMode, ...] = stopping.AVAILABLE_MODES
    return None if len(modes) > 1 else (str(modes[0]), _MODE_WORDS[modes[0]])


# ... then do it, and tell.


def stop_shown(desk: RunRecordAdmin, request: HttpRequest) -> HttpResponse:
    """Stop the runs that a page of ``ask_about`` has shown; to send it again does no harm."""
    _must_stop(desk, request)
    if request.method != "POST":
        return HttpResponseRedirect(_list_address())
    user = _user(request)
    try:
        snapshot = Snapshot.read(request.POST.get("snapshot", ""), user)
    except NotSigned:
        return _start_again(desk, request)
    form = StopForm(request.POST, is_everything=snapshot.is_everything)
    if not form.is_valid():
        return _ask(desk, request, form, snapshot, {})
    given = form.cleaned_data
    stopped = stopping.stop_many(
        snapshot.runs, by=user, via=StopVia.ADMIN, mode=given["mode"], reason=given["reason"]
    )
    outcomes = Outcomes.of(snapshot, stopped)
    context = {"title": _("What came of it"), "outcomes": outcomes, "signed": outcomes.sign(user)}
    return _page(desk, request, "stop_outcome", context)


def outcomes_file(desk: RunRecordAdmin, request: HttpRequest) -> HttpResponse:
    """Give all outcomes that a page of ``stop_shown`` carries as a file."""
    _must_stop(desk, request)
    try:
        return Outcomes.read(request.POST.get("outcomes", ""), _user(request)).as_file()
    except NotSigned:
        return _start_again(desk, request)


def _start_again(desk: RunRecordAdmin, request: HttpRequest) -> HttpResponse:
    words = _("That page is out of date, and nothing was done. Please choose the runs again.")
    desk.message_user(request, words, messages.WARNING)
    return HttpResponseRedirect(_list_address())


def _must_stop(desk: RunRecordAdmin, request: HttpRequest) -> None:
    if not desk.has_view_permission(request):
        raise Http404
    if not desk.has_stop_permission(request):
        raise PermissionDenied


def _page(
    desk: RunRecordAdmin, request: HttpRequest, template: str, context: dict[str, Any]
) -> TemplateResponse:
    whole = {
        **desk.admin_site.each_context(request),
        "opts": desk.opts,
        **context,
    }
    return TemplateResponse(request, f"admin/runs/runrecord/{template}.html", whole)


def _user(request: HttpRequest) -> Any:
    return request.user  # signed in: the admin has seen to it
