"""The addresses of the admin that stop runs: one at once, many after a page to confirm.

The page to confirm carries the ids of the runs that it shows, in one field of its form, and exactly
these are stopped: not a run that starts meanwhile, or comes to match the filter. Django's own
protocol would take a field for each id, at most 1,000, and drop a run that has left the filter
meanwhile, so that this run would have no outcome.

``stopping`` decides which of these runs the user may stop.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest, PermissionDenied
from django.core.validators import RegexValidator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agents.cancellation import StopMode
from runs.actions import stopping
from runs.actions.stop_rows import LONGEST_PLAN_SECONDS, is_in_order
from runs.wire import BulkWord
from runs.wording.ladder import MODE_WORDS

from ..exceptions import RunAlreadyFinished, StopNotPermitted
from ..models import MAX_REASON_LENGTH, RunRecord, StopVia
from ..status import TERMINAL
from .read_only import ReadOnlyAdmin
from .rows import for_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["StopForm", "StopPages"]

MOST_SHOWN = 100  # runs that the page to confirm lists
_MOST_OVER = 1_000  # finished runs that get an outcome

_TYPES = ["text/html", "application/json"]

#: What came of the button on a line.
_DONE: dict[StopMode, StrOrPromise] = {
    StopMode.GRACEFUL: gettext_lazy("%(run)s is asked to stop."),
    StopMode.ABORT: gettext_lazy("The calls of %(run)s in flight are cut."),
    StopMode.ABANDON: gettext_lazy("%(run)s is given up."),
}
#: What becomes of the runs of a bulk stop.
_EFFECTS: dict[StopMode, StrOrPromise] = {
    StopMode.GRACEFUL: gettext_lazy(
        "A run that was asked to stop completes its call in flight and then ends. The list shows "
        "when it does."
    ),
    StopMode.ABORT: gettext_lazy(
        "The calls in flight are cut, and the runs end soon. The list shows when they do."
    ),
    StopMode.ABANDON: gettext_lazy(
        "The runs are over. Code of theirs may still be running; their receipts say which."
    ),
}

_OUTCOME_WORDS: dict[BulkWord, StrOrPromise] = {
    "accepted": gettext_lazy("accepted"),
    "already_stopping": gettext_lazy("was already stopping"),
    "already_finished": gettext_lazy("had finished"),
    "not_permitted": gettext_lazy("not permitted"),
    "not_found": gettext_lazy("not there any more"),
}


def _seconds(label: StrOrPromise) -> forms.FloatField:
    return forms.FloatField(
        label=label,
        required=False,
        min_value=0,
        max_value=LONGEST_PLAN_SECONDS,
        help_text=gettext_lazy("By itself, if the run has not ended by then. Empty: never."),
    )


class StopForm(forms.Form):
    """How, and why. With ``is_everything`` a person must write a word, too."""

    mode = forms.ChoiceField(
        label=gettext_lazy("How"),
        choices=[(str(mode), words) for mode, words in MODE_WORDS.items()],
        initial=str(StopMode.GRACEFUL),
        widget=forms.RadioSelect,
    )
    abort_after = _seconds(gettext_lazy("Cut the calls in flight after so many seconds"))
    abandon_after = _seconds(gettext_lazy("Give up after so many seconds"))
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=MAX_REASON_LENGTH,
        required=False,
        help_text=gettext_lazy("Kept on each run's receipt and in the history."),
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, is_everything: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        if is_everything:
            word = _("everything")
            label = _("No filter is set. To stop all of these runs, write the word “%(word)s”")
            wrong = _("Write the word “%(word)s”.") % {"word": word}
            self.fields["word"] = forms.CharField(
                label=label % {"word": word},
                validators=[RegexValidator(rf"^{re.escape(word)}\Z", wrong, flags=re.IGNORECASE)],
                widget=forms.TextInput(attrs={"autocomplete": "off", "size": "16"}),
            )

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if not is_in_order(given.get("abort_after"), given.get("abandon_after")):
            self.add_error("abandon_after", _("Not before the calls in flight are cut."))
        return given


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
        """Stop a run, for the button on its line; a script gets JSON, a form its list back.

        A script has asked whether to give up on the run. Without one the page to confirm asks.
        """
        if request.method != "POST" or not self.has_view_permission(request):
            raise Http404
        run = get_object_or_404(self.get_queryset(request), pk=id)
        mode, reason = _wanted(request)
        is_script = request.get_preferred_type(_TYPES) == "application/json"
        if mode == StopMode.ABANDON and not (is_script or run.is_terminal):
            form = StopForm(initial={"mode": mode, "reason": reason})
            address = reverse("admin:runs_runrecord_stop_shown")
            return self._ask(request, self.get_queryset(request).filter(pk=id), form, address)
        try:
            stopping.request_stop(
                id, via=StopVia.ADMIN, by=_user(request), mode=mode, reason=reason
            )
            status, code, detail = 202, "accepted", _DONE[mode]
        except StopNotPermitted:
            raise PermissionDenied from None
        except RunRecord.DoesNotExist:
            raise Http404 from None
        except RunAlreadyFinished:
            status, code, detail = 409, "run_already_finished", _("%(run)s had finished first.")
        detail = detail % {"run": run}
        if is_script:
            return JsonResponse({"code": code, "detail": detail}, status=status)
        self.message_user(request, detail, messages.SUCCESS if status == 202 else messages.WARNING)
        return HttpResponseRedirect(_back(request))

    # Many runs: two addresses ask, and the third stops the runs that were shown.

    @admin.action(permissions=["stop"], description=gettext_lazy("Stop selected runs"))
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[RunRecord]) -> HttpResponse:
        return self._ask(request, queryset, StopForm(), reverse("admin:runs_runrecord_stop_shown"))

    def stop_matching(self, request: HttpRequest) -> HttpResponse:
        """Ask about all active runs that match the filters of this address."""
        self._require_stop_permission(request)
        try:
            changes = self.get_changelist_instance(request)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{_list_address()}?e=1")
        is_everything = not (changes.has_active_filters or changes.query)
        active = changes.get_queryset(request).filter(finished_at=None)
        address = reverse("admin:runs_runrecord_stop_shown")
        if is_everything:
            address += "?everything=1"
        return self._ask(request, active, StopForm(is_everything=is_everything), address)

    def _ask(
        self, request: HttpRequest, runs: QuerySet[RunRecord], form: StopForm, address: str
    ) -> HttpResponse:
        """Show the effect of a stop of ``runs``; the form goes to ``address``."""
        context = {
            "title": _("Stop runs"),
            "form": form,
            "address": address,
            "back": _list_address() if form.is_bound else _back(request),
            **_effect(runs, _user(request)),
        }
        return self._page(request, "stop_selected", context)

    def stop_shown(self, request: HttpRequest) -> HttpResponse:
        """Stop the runs that a page to confirm has shown; a repeat does no harm."""
        self._require_stop_permission(request)
        if request.method != "POST":
            return HttpResponseRedirect(_list_address())
        try:
            ids = [uuid.UUID(word) for word in request.POST.get("runs", "").split(",")]
        except ValueError as error:
            raise BadRequest("The field `runs` holds ids, separated by commas.") from error
        form = StopForm(request.POST, is_everything="everything" in request.GET)
        if not form.is_valid():
            shown = self.get_queryset(request).filter(pk__in=ids)
            return self._ask(request, shown, form, request.get_full_path())
        names = ("mode", "reason", "abort_after", "abandon_after")
        wanted = {name: form.cleaned_data[name] for name in names}
        outcomes = stopping.stop_many(ids, by=_user(request), via=StopVia.ADMIN, **wanted)
        found = for_rows(RunRecord.objects.all()).in_bulk(ids)
        count = Counter(one.outcome for one in outcomes)
        context = {
            "title": _("Outcome of the stop"),
            "effect": _EFFECTS[StopMode(wanted["mode"])],
            "counts": [(words, count[one]) for one, words in _OUTCOME_WORDS.items() if count[one]],
            "lines": [
                (one.id, _OUTCOME_WORDS[one.outcome], found.get(uuid.UUID(one.id)))
                for one in outcomes
            ],
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


def _effect(runs: QuerySet[RunRecord], user: User) -> dict[str, Any]:
    """Return what the page to confirm says about a stop of ``runs``, all of which ``user`` sees.

    Of each tree the page names only the topmost of the runs to stop, and counts the active runs
    below it. The finished runs travel along, so that each of them gets an outcome.
    """
    reads = ("agent", "status", "stop_requested_at", "parent", "root", "owner")
    active = runs.filter(finished_at=None).select_related(None).select_related("owner")
    permitted: dict[uuid.UUID, RunRecord] = {}
    not_permitted = []
    for run in active.only(*reads, f"owner__{get_user_model().USERNAME_FIELD}"):
        if run.may_be_stopped_by(user):
            permitted[run.pk] = run
        else:
            not_permitted.append(run)

    parents = {run.pk: run.parent_id for run in permitted.values()}
    alive = set(permitted)
    trees = RunRecord.objects.filter(root__in=active.values("root"), parent__isnull=False)
    for id, parent, finished_at in trees.values_list("pk", "parent_id", "finished_at"):
        parents[id] = parent
        if finished_at is None:
            alive.add(id)
    tops = {id: _topmost(id, parents, permitted) for id in alive}
    below = Counter(top for id, top in tops.items() if top and top != id)
    chosen = [(run, below[run.pk]) for run in permitted.values() if tops[run.pk] == run.pk]

    over = runs.filter(status__in=TERMINAL).values_list("pk", flat=True)
    over_count = over.count()
    ids = [*(run.pk for run, _below in chosen), *(over if over_count <= _MOST_OVER else ())]
    return {
        "count": len(chosen),
        "below_count": below.total(),
        "shown": chosen[:MOST_SHOWN],
        "unshown_count": max(0, len(chosen) - MOST_SHOWN),
        "not_permitted": not_permitted[:MOST_SHOWN],
        "over_count": over_count,
        "ids": ",".join(map(str, ids)),
    }


def _topmost(
    run: uuid.UUID, parents: Mapping[uuid.UUID, uuid.UUID | None], chosen: Container[uuid.UUID]
) -> uuid.UUID | None:
    """Return the topmost chosen run at or above ``run``, if there is one."""
    top: uuid.UUID | None = None
    at: uuid.UUID | None = run
    while at is not None:
        if at in chosen:
            top = at
        at = parents.get(at)
    return top


def _wanted(request: HttpRequest) -> tuple[StopMode, str]:
    """Return mode and reason, where they are given: fields of a form, or of a script's JSON."""
    given: Any = request.POST
    if request.content_type == "application/json":
        try:
            given = json.loads(request.body or b"{}")
        except ValueError as error:
            raise BadRequest("The body is not JSON.") from error
    given = given if isinstance(given, Mapping) else {"reason": None}
    reason, mode = given.get("reason", ""), given.get("mode", StopMode.GRACEFUL)
    form = StopForm({"mode": mode, "reason": reason})
    if not isinstance(reason, str) or not isinstance(mode, str) or not form.is_valid():
        raise BadRequest("No such mode, or the reason is no text of at most 500 characters.")
    return StopMode(mode), str(form.cleaned_data["reason"])


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
