"""How much of their quotas owners have used, in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from runs.quotas.reading import quotas_of_row
from runs.wording.quotas import amount

from ..models import OwnerUsage, RunRecord
from ..status import Status
from ..templatetags.runs_pages import instant
from .read_only import ReadOnlyAdmin
from .search import owners_named

__all__ = ["OwnerUsageAdmin"]


_NAMES = get_user_model().USERNAME_FIELD


@admin.display(description=gettext_lazy("Owner"), ordering=f"owner__{_NAMES}")
def owner(row: OwnerUsage) -> str:
    return row.owner.get_username()


@admin.display(description=gettext_lazy("Queued runs"))
def queued_runs(row: OwnerUsage) -> str:
    return _shown(row, "queued_runs")


@admin.display(description=gettext_lazy("Stored"), ordering="stored_bytes")
def stored(row: OwnerUsage) -> str:
    return _shown(row, "stored_bytes")


@admin.display(description=gettext_lazy("Keys of the data store"), ordering="keys_count")
def keys(row: OwnerUsage) -> str:
    return _shown(row, "data_store_keys")


@admin.display(description=gettext_lazy("Measured"))
def measured(row: OwnerUsage) -> str:
    return instant(row.measured_at, "full") if row.measured_at else ""


def _shown(row: OwnerUsage, name: str) -> str:
    queued: int = row.queued  # type: ignore[attr-defined]  # see get_queryset
    quota = next(one for one in quotas_of_row(row, queued) if one.name == name)
    words = {"used": amount(name, quota.used), "allowed": amount(name, quota.allowed)}
    return _("%(used)s of %(allowed)s") % words


class OwnerUsageAdmin(ReadOnlyAdmin):
    list_display = (owner, queued_runs, stored, keys)
    list_display_links = (owner,)
    list_select_related = ("owner",)
    ordering = ("-stored_bytes",)
    search_fields = ("pk",)  # shows the field; get_search_results does the search
    search_help_text = gettext_lazy("Searches names of owners.")
    fields = (owner, queued_runs, stored, keys, measured)  # type: ignore[assignment]
    readonly_fields = fields  # type: ignore[assignment]

    def get_queryset(self, request: HttpRequest) -> QuerySet[OwnerUsage]:
        queued = RunRecord.objects.filter(owner=OuterRef("pk"), status=Status.QUEUED).order_by()
        count = Subquery(queued.values("owner").annotate(count=Count("pk")).values("count"))
        rows: QuerySet[OwnerUsage] = super().get_queryset(request)
        return rows.annotate(queued=Coalesce(count, 0))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        text = search_term.strip()
        return (queryset.filter(owner__in=owners_named(text)) if text else queryset), False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Let a row go with its user, in the site's own admin; alone it would be measured again."""
        match = request.resolver_match
        is_own_page = match is None or (match.url_name or "").startswith("runs_ownerusage_")
        return obj is not None and not is_own_page
