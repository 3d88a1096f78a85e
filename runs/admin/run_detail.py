"""One run in the admin: its log as it grows, Stop and "Run again", and all that is known of it.

The parts and the scripts are those of the run's page (``runs.web.pages``). This module adds the
admin's frame, and what only operators need: the whole tree, the worker, the attempts. The only form
is Stop's, because nothing about a run can be edited.
"""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from runs.web.feed.reading import read_snapshots
from runs.web.pages.fragments import find_run, receipt_context
from runs.web.pages.run import run_context
from runs.web.pages.values.input_fields import input_fields
from runs.wire import limits_of, tree_usage_of, unwatched_of, usage_of
from runs.wording.left_behind import unwatched
from runs.wording.limits import limits_text
from runs.wording.run import usage_text
from runs.wording.time import duration, in_zone, seconds_between

from ..models import RunRecord
from ..status import Status
from ..templatetags.runs_pages import instant
from .read_only import ReadOnlyAdmin

__all__ = ["RunDetail"]

CHANGE = "admin:runs_runrecord_change"
MOST_BRANCHES = 500  # runs of a tree that are listed
DEEPEST = 8  # steps of indentation; deeper runs get no more


class RunDetail(ReadOnlyAdmin):
    """The part of the runs' admin that shows one."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.show_part)
        own = [path("<uuid:id>/part/<str:part>/", view, name="runs_runrecord_part")]
        return own + super().get_urls()

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a run to a user who may see it; nothing can be sent here."""
        if request.method not in ("GET", "HEAD") or not self.has_view_permission(request):
            raise PermissionDenied
        run = find_run(request, _read_id(object_id))
        get_token(request)  # the script's requests need the cookie
        context = run_context(request, run)
        addresses = {**context["data"]["addresses"], **_addresses(run)}
        whole = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": run,
            "has_view_permission": True,
            "may_delete": self.has_delete_permission(request, run),
            **context,
            "data": {**context["data"], "addresses": addresses},
            "addresses": addresses,
            "run_page": CHANGE,
            "fields": input_fields(run.agent, run.input_record.value),
            "facts_of_run": _facts(run),
            **_tree(run),
        }
        return TemplateResponse(request, "admin/runs/runrecord/change_form.html", whole)

    def show_part(self, request: HttpRequest, id: uuid.UUID, part: str) -> HttpResponse:
        """Draw a part of the page for its script; ``?tz=`` is the reader's time zone."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = find_run(request, id)
        zone = request.GET.get("tz", "")
        with in_zone(zone):
            match part:
                case "tree":
                    context = _tree(run)
                case "facts":
                    context = {"facts_of_run": _facts(run)}
                case "receipt":
                    context = receipt_context(run, read_snapshots([id])[id].words(zone))
                case _:
                    raise Http404
            return render(request, _PARTS[part], {"run_page": CHANGE, **context})


_PARTS = {
    "tree": "admin/runs/runrecord/tree.html",
    "facts": "admin/runs/runrecord/facts.html",
    "receipt": "runs/fragments/receipt.html",
}


def _read_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(unquote(text))
    except ValueError:
        raise Http404 from None


def _addresses(run: RunRecord) -> dict[str, str]:
    """Return the addresses that differ from those of the run's page."""
    return {
        **{part: reverse("admin:runs_runrecord_part", args=[run.pk, part]) for part in _PARTS},
        "stop": reverse("admin:runs_runrecord_stop", args=[run.pk]),
        "page": reverse(CHANGE, args=[run.pk]),
        "sign_in": reverse("admin:login"),
    }


def _facts(run: RunRecord) -> dict[str, SafeString | str]:
    """Return what is known of a run, by its label; what is not known is left out."""
    owner, input, parent, worker = run.owner, run.input_record, run.parent, run.worker
    attempts = {"attempt": run.attempt, "most": run.max_attempts + run.returned_claims}
    facts = {
        _("Id"): format_html("<code>{}</code>", run.pk),
        _("Agent"): _listed(run.agent, agent=run.agent),
        _("Owner"): _listed(owner.get_username(), owner=owner.get_username()),
        _("Called by"): parent and _link(parent.agent, reverse(CHANGE, args=[parent.pk])),
        _("Asked for"): instant(run.created_at, "full"),
        _("Started"): instant(run.started_at, "full"),
        _("Finished"): instant(run.finished_at, "full"),
        _("Priority"): str(run.priority) if run.priority or run.status == Status.QUEUED else "",
        _("Attempt"): run.attempt and _("%(attempt)d of at most %(most)d") % attempts,
        _("Worker"): worker and _listed(worker.name, worker=str(worker.pk)),
        _("Deadline"): instant(run.deadline_at, "full"),
        _("Limits"): limits_text(limits_of(run)),
        _("Used"): usage_text(usage_of(run)),
        _("Used by the tree below"): run.has_children and usage_text(tree_usage_of(run)),
        _("Not watched"): unwatched(**unwatched_of(run)),
        _("Size of the input"): input.size_bytes and filesizeformat(input.size_bytes),
    }
    return {label: value for label, value in facts.items() if value}


def _listed(text: str, **filters: str) -> SafeString:
    return _link(text, f"{reverse('admin:runs_runrecord_changelist')}?{urlencode(filters)}")


def _link(text: str, address: str) -> SafeString:
    return format_html('<a href="{}">{}</a>', address, text)


def _tree(run: RunRecord) -> dict[str, Any]:
    """Return what ``tree.html`` shows: each run of the tree before those that it called."""
    runs = RunRecord.objects.filter(root=run.root_id).defer(
        "result", "partial_result", "error", "in_flight", "stop_cleanup_error"
    )
    # Topmost first: the callers of every listed run are listed, too.
    listed = list(runs.order_by("depth", "created_at", "id")[:MOST_BRANCHES])
    paths: dict[uuid.UUID | None, tuple[int, ...]] = {}
    for place, one in enumerate(listed):
        paths[one.pk] = (*paths.get(one.parent_id, ()), place)
    listed.sort(key=lambda one: paths[one.pk])
    count = len(listed) if len(listed) < MOST_BRANCHES else runs.count()
    return {
        "this": run,
        "branches": [(one, min(one.depth, DEEPEST), _used(one)) for one in listed],
        "unlisted_count": count - len(listed),
    }


def _used(run: RunRecord) -> str:
    """Return ``3.2 s · 2 LLM calls · 12.4k tokens``."""
    took = ""
    if run.started_at:
        end = run.finished_at or timezone.now()
        took = duration(seconds_between(run.started_at, end))
    return " · ".join(filter(None, (took, usage_text(usage_of(run)))))
