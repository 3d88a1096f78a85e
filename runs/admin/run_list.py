"""The list of runs in the admin: look, find, stop. Nothing about a run can be edited."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy

from ..models import RunRecord
from . import rows, run_detail, stop_pages
from .days import FIELD as DAY_FIELD
from .days import day_links
from .deleting import delete_selected, may_be_deleted, what_goes_too
from .list_filters import LIST_FILTERS
from .search import HELP, search_runs

__all__ = ["RunRecordAdmin"]

MOST_REFRESHED = 200  # lines that the page's script asks for at once


class RunChangeList(ChangeList):
    """The list as one address asks for it."""

    @property
    def is_narrowed(self) -> bool:
        return bool(self.has_active_filters or self.query)

    @cached_property
    def day_links(self) -> dict[str, Any]:
        return day_links(self)


class RunRecordAdmin(admin.ModelAdmin):
    list_display = (rows.status, rows.agent, rows.owner, *rows.LIVE[1:])
    list_display_links = (rows.agent,)
    list_filter = LIST_FILTERS
    list_per_page = 50  # Django's own drawing takes 1.5 ms a line
    empty_value_display = ""
    # The one order, beside that by owner, that an index serves; others would sort all runs.
    sortable_by = (rows.started,)  # type: ignore[assignment]  # columns may be callables here, too
    # Counting all runs again, only to say "5 of 100,000", is not worth a read of them all.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    date_hierarchy = DAY_FIELD
    search_fields = ("pk",)  # shows the field; get_search_results says what it does
    search_help_text = HELP
    actions = ("stop_selected", delete_selected)

    # Which runs.

    def get_queryset(self, request: HttpRequest) -> QuerySet[RunRecord]:
        return rows.for_rows(RunRecord.objects.visible_to(request.user))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return search_runs(queryset, search_term), False

    def get_list_display(self, request: HttpRequest) -> tuple[Any, ...]:
        return (*self.list_display, rows.stop_column(request.user))

    # Who may do what.

    def has_view_permission(self, request: HttpRequest, obj: RunRecord | None = None) -> bool:
        return bool(request.user.has_perm("runs.view_runrecord"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RunRecord | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RunRecord | None = None) -> bool:
        if not self.has_view_permission(request) or not super().has_delete_permission(request):
            return False
        return obj is None or may_be_deleted(obj)

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Tell whether the action is there, and its addresses; its name is Django's rule."""
        return bool(request.user.has_perm("runs.stop_runrecord"))

    # What can be done.

    @admin.action(permissions=["stop"], description=gettext_lazy("Stop selected runs"))
    def stop_selected(self, request: HttpRequest, queryset: QuerySet[RunRecord]) -> HttpResponse:
        return stop_pages.ask_about(self, request, queryset)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        names, counts = what_goes_too(objs)
        return names, counts, set(), []

    # Where.

    def get_changelist_instance(self, request: HttpRequest) -> RunChangeList:
        changes: RunChangeList = super().get_changelist_instance(request)  # type: ignore[assignment]
        return changes

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RunChangeList

    def get_urls(self) -> list[URLPattern]:
        pages: dict[str, tuple[str, Callable[..., HttpResponse]]] = {
            "refresh": ("refresh/", self.refresh),
            "stop_matching": ("stop-matching/", partial(stop_pages.ask_about_matching, self)),
            "stop_shown": ("stop/", partial(stop_pages.stop_shown, self)),
            "outcomes": ("stop/outcomes.csv", partial(stop_pages.outcomes_file, self)),
            "stop": ("<uuid:id>/stop/", partial(stop_pages.stop_one, self)),
            "part": ("<uuid:id>/part/<str:part>/", partial(run_detail.show_part, self)),
        }
        own = [
            path(where, self.admin_site.admin_view(view), name=f"runs_runrecord_{name}")
            for name, (where, view) in pages.items()
        ]
        return own + super().get_urls()

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

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return run_detail.show_run(self, request, object_id)

    def refresh(self, request: HttpRequest) -> HttpResponse:
        """Draw the lines of ``?ids=``, those that there are, for the list's script."""
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
