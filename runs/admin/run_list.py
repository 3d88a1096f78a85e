"""The list of runs in the admin: it shows, finds and stops runs, and edits none."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from ..models import RunRecord
from . import rows
from .deleting import RunDeletion
from .list_filters import LIST_FILTERS
from .run_detail import RunDetail
from .search import HELP, search_runs
from .stop_pages import StopPages

__all__ = ["RunRecordAdmin"]

MOST_REFRESHED = 200  # lines that the page's script asks for at once


class RunRecordAdmin(StopPages, RunDetail, RunDeletion):
    list_display = (rows.status, rows.agent, rows.owner, *rows.LIVE[1:])
    list_display_links = (rows.agent,)
    list_filter = LIST_FILTERS
    empty_value_display = ""
    # Only this order and the one by owner have an index; others would sort all runs.
    sortable_by = (rows.started,)  # type: ignore[assignment]  # columns may be callables here, too
    search_fields = ("pk",)  # shows the field; get_search_results does the search
    search_help_text = HELP
    actions = ("stop_selected", "delete_selected")

    # Which runs.

    def get_queryset(self, request: HttpRequest) -> QuerySet[RunRecord]:
        return rows.for_rows(RunRecord.objects.visible_to(request.user))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return search_runs(queryset, search_term), False

    def get_list_display(self, request: HttpRequest) -> tuple[Any, ...]:
        return (*self.list_display, rows.stop_column(request.user))

    # Pages.

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.refresh)
        return [path("refresh/", view, name="runs_runrecord_refresh"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        query = request.GET.urlencode()
        context = {
            "now": timezone.now(),
            "may_stop": self.has_stop_permission(request),
            "stop_matching": f"{reverse('admin:runs_runrecord_stop_matching')}?{query}",
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def refresh(self, request: HttpRequest) -> HttpResponse:
        """Draw the lines of ``?ids=`` for the list's script; deleted runs have none."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        ids = _read_ids(request.GET.get("ids", ""))
        found = self.get_queryset(request).filter(pk__in=ids)
        lines = [(run.pk, rows.live_cells(run, request.user)) for run in found]
        context = {"lines": lines, "now": timezone.now()}
        return TemplateResponse(request, "admin/runs/runrecord/lines.html", context)


def _read_ids(text: str) -> list[uuid.UUID]:
    ids = []
    for word in text.split(",")[:MOST_REFRESHED]:
        with suppress(ValueError):
            ids.append(uuid.UUID(word))
    return ids
