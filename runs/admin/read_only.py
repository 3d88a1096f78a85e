"""The base of our admins: rows that only agents and workers write."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern

from runs.web.self_contained import with_self_contained_views

__all__ = ["ReadOnlyAdmin"]


class ReadOnlyAdmin(admin.ModelAdmin):
    """An admin that adds and changes nothing; the permission to change does not show rows."""

    list_per_page = 50  # Django's own drawing takes 1.5 ms a line
    # Counting all rows again, only to say "5 of 100,000", is not worth reading them all.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    @property
    def urls(self) -> list[URLPattern]:
        return with_self_contained_views(super().urls)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm(f"{self.opts.app_label}.view_{self.opts.model_name}"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_view_permission(request) and super().has_delete_permission(request, obj)
