"""Delete finished runs, and with each the runs that it called.

A run can be deleted when no run of its tree is active any more.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as delete_by_django
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from runs.ops import removal

from ..models import RunRecord
from .read_only import ReadOnlyAdmin

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["RunDeletion"]

MOST_AT_ONCE = 500  # each is a field of the page that asks; Django takes 1,000
_MOST_NAMED = 10
_MOST_LISTED = 50  # runs that the page that asks names


class RunDeletion(ReadOnlyAdmin):
    """The part of the runs' admin that deletes them."""

    def has_delete_permission(self, request: HttpRequest, obj: RunRecord | None = None) -> bool:
        may_delete = super().has_delete_permission(request)
        if obj is None or not may_delete:
            return may_delete
        return obj.is_terminal and not RunRecord.objects.active().filter(root=obj.root_id).exists()

    @admin.action(
        permissions=["delete"], description=gettext_lazy("Delete selected %(verbose_name_plural)s")
    )
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[RunRecord]) -> Any:
        """Do as Django's own action, but leave out runs of active trees, and name them."""
        active = queryset.filter(root__in=RunRecord.objects.active().values("root"))
        refused = list(active.order_by("-created_at", "-id")[: _MOST_NAMED + 1])
        if refused:
            self._name_refused(request, refused)
        ids = set(queryset.values_list("pk", flat=True)[: MOST_AT_ONCE * 2]) - set(
            active.values_list("pk", flat=True)
        )
        if len(ids) > MOST_AT_ONCE:
            words = _("Nothing was deleted: please choose at most %(count)d runs at once.")
            self.message_user(request, words % {"count": MOST_AT_ONCE}, messages.WARNING)
            return None
        if not ids:
            return None
        return delete_by_django(self, request, RunRecord.objects.filter(pk__in=ids))

    def _name_refused(self, request: HttpRequest, runs: list[RunRecord]) -> None:
        names = ", ".join(str(run) for run in runs[:_MOST_NAMED])
        if len(runs) > _MOST_NAMED:
            names = _("%(names)s and others") % {"names": names}
        words = ngettext(
            "Not deleted, because it is not over: %(names)s. Stop it first.",
            "Not deleted, because they, or runs of their trees, are not over: %(names)s.",
            len(runs),
        )
        self.message_user(request, words % {"names": names}, messages.WARNING)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Name the runs that go, up to a number, and count them and their events.

        Django would read every event of every run, and name each on the page that asks.
        """
        ids = removal.with_runs_below([run.pk for run in objs])
        runs = RunRecord.objects.filter(pk__in=ids)
        extent = removal.extent_of(runs)
        named = runs.order_by("depth", "created_at", "pk").only("agent")[:_MOST_LISTED]
        names: list[StrOrPromise] = [str(run) for run in named]
        if len(ids) > _MOST_LISTED:
            names.append(_("%(count)d more") % {"count": len(ids) - _MOST_LISTED})
        counts: dict[StrOrPromise, int] = {
            RunRecord._meta.verbose_name_plural or "": extent.runs,
            gettext_lazy("events"): extent.events,
        }
        protected: list[StrOrPromise] = []
        if extent.is_too_much:
            words = {"events": f"{extent.events:,}", "most": f"{removal.MOST_EVENTS:,}"}
            text = _("%(events)s events: at most %(most)s go at once. Choose fewer runs.")
            protected.append(text % words)
        return names, counts, set(), protected

    def delete_model(self, request: HttpRequest, obj: RunRecord) -> None:
        _delete([obj.pk])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[RunRecord]) -> None:
        _delete(list(queryset.values_list("pk", flat=True)))


def _delete(ids: list[uuid.UUID]) -> None:
    try:
        removal.delete_runs(ids)
    except removal.StillActive:
        raise PermissionDenied from None
