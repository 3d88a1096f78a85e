"""One run in the admin: its log as it grows, Stop and "Run again", and all that is known of it.

The parts and the scripts are those of the run's page (``runs.web.pages``). This module adds the
admin's frame, and what only operators need: the whole tree, the worker, the attempts. The only form
is Stop's, because nothing about a run can be edited.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from runs.web.feed.reading import read_snapshots
from runs.web.pages.found import find_run
from runs.web.pages.fragments import receipt_context
from runs.web.pages.run import run_context
from runs.web.pages.values.input_fields import input_fields
from runs.wording.run import usage_text
from runs.wording.time import duration, in_zone, seconds_between

from ..models import RunRecord
from ..status import Status
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
            "tree": _tree(run),
        }
        return TemplateResponse(request, "admin/runs/runrecord/change_form.html", whole)

    def show_part(self, request: HttpRequest, id: uuid.UUID, part: str) -> HttpResponse:
        """Draw a part of the page for its script; ``?tz=`` is the reader's time zone."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if part not in _PARTS:
            raise Http404
        run = find_run(request, id)
        zone = request.GET.get("tz", "")
        with in_zone(zone):
            template, context = _PARTS[part](run, zone)
            page = TemplateResponse(request, template, {"run_page": CHANGE, **context})
            return page.render()


_Part = tuple[str, dict[str, Any]]


def _tree_part(run: RunRecord, zone: str) -> _Part:
    return "admin/runs/runrecord/tree.html", {"tree": _tree(run)}


def _facts_part(run: RunRecord, zone: str) -> _Part:
    return "admin/runs/runrecord/facts.html", {"facts_of_run": _facts(run)}


def _receipt_part(run: RunRecord, zone: str) -> _Part:
    words = read_snapshots([run.pk])[run.pk].words(zone)
    return "runs/fragments/receipt.html", receipt_context(run, words)


_PARTS: dict[str, Callable[[RunRecord, str], _Part]] = {
    "tree": _tree_part,
    "facts": _facts_part,
    "receipt": _receipt_part,
}


def _read_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(unquote(text))
    except ValueError:
        raise Http404 from None


def _addresses(run: RunRecord) -> dict[str, str]:
    """Return the addresses that differ from those of the run's page."""
    parts = {
        part: reverse("admin:runs_runrecord_part", args=[run.pk, part]) for part in sorted(_PARTS)
    }
    return {
        **parts,
        "stop": reverse("admin:runs_runrecord_stop", args=[run.pk]),
        "change": reverse(CHANGE, args=[run.pk]),
        "sign_in": reverse("admin:login"),
    }


# Facts.


@dataclass(frozen=True, slots=True)
class Fact:
    """One row; ``at`` is an instant, ``address`` leads to more of it."""

    label: str
    value: str = ""
    at: datetime | None = None
    address: str = ""
    is_code: bool = False


def _facts(run: RunRecord) -> list[Fact]:
    return [fact for fact in _all_facts(run) if fact.value or fact.at]


def _all_facts(run: RunRecord) -> Iterator[Fact]:
    name = run.owner.get_username()
    yield Fact(_("Id"), str(run.pk), is_code=True)
    yield Fact(_("Agent"), run.agent, address=_listed(agent=run.agent), is_code=True)
    yield Fact(_("Owner"), name, address=_listed(owner=name))
    if run.parent_id and run.parent:
        yield Fact(_("Called by"), run.parent.agent, address=reverse(CHANGE, args=[run.parent_id]))
    yield Fact(_("Asked for"), at=run.created_at)
    yield Fact(_("Started"), at=run.started_at)
    yield Fact(_("Finished"), at=run.finished_at)
    if run.priority or run.status == Status.QUEUED:
        yield Fact(_("Priority"), str(run.priority))
    if run.attempt:
        words = _("%(attempt)d of at most %(most)d")
        yield Fact(_("Attempt"), words % {"attempt": run.attempt, "most": run.max_attempts})
    if run.worker:
        yield Fact(_("Worker"), run.worker.name, address=_listed(worker=str(run.worker_id)))
    size_bytes = run.input_record.size_bytes
    yield Fact(_("Size of the input"), filesizeformat(size_bytes) if size_bytes else "")


def _listed(**filters: str) -> str:
    return f"{reverse('admin:runs_runrecord_changelist')}?{urlencode(filters)}"


# The tree.


@dataclass(frozen=True, slots=True)
class Branch:
    """A run in its tree; ``step`` is its indentation."""

    run: RunRecord
    step: int
    is_this: bool
    took: str
    usage: str


@dataclass(frozen=True, slots=True)
class Tree:
    """The runs of a tree, each before those that it called."""

    branches: list[Branch]
    unlisted_count: int


def _tree(run: RunRecord) -> Tree:
    runs = RunRecord.objects.filter(root=run.root_id).defer(
        "result", "partial_result", "error", "in_flight", "stop_cleanup_error"
    )
    # Topmost first: the callers of every listed run are listed, too.
    found = list(islice(runs.order_by("depth", "created_at", "id"), MOST_BRANCHES + 1))
    count = len(found) if len(found) <= MOST_BRANCHES else runs.count()
    listed = found[:MOST_BRANCHES]
    return Tree([_branch(one, run) for one in _in_order(listed)], count - len(listed))


def _in_order(runs: list[RunRecord]) -> Iterator[RunRecord]:
    """Yield each run before those that it called. No recursion: trees may be deep."""
    below: dict[uuid.UUID | None, list[RunRecord]] = {}
    for run in runs:
        below.setdefault(run.parent_id, []).append(run)
    todo = list(reversed(below.get(None, [])))
    while todo:
        run = todo.pop()
        yield run
        todo += reversed(below.get(run.pk, []))


def _branch(run: RunRecord, shown: RunRecord) -> Branch:
    took = ""
    if run.started_at:
        end = run.finished_at or timezone.now()
        took = duration(seconds_between(run.started_at, end))
    usage = usage_text(_usage(run))
    return Branch(run, min(run.depth, DEEPEST), run.pk == shown.pk, took, usage)


def _usage(run: RunRecord) -> dict[str, Any]:
    return {
        "llm_calls": run.llm_calls,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "estimated": run.usage_estimated,
    }
