"""The workers in the admin: which are alive, how many runs each executes, and draining.

The admin drains a worker by a column that every claim checks. The worker and its runs continue. A
process that shuts down drains without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.forms import Script
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, re_path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from runs.actions import leases
from runs.wording.status import worker_look
from runs.wording.time import duration, seconds_between

from ..conf import conf
from ..models import RunRecord, WorkerRecord
from ..status import Status
from ..templatetags.runs_pages import instant
from .read_only import ReadOnlyAdmin

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

__all__ = ["WorkerRecordAdmin"]


class PresenceFilter(admin.SimpleListFilter):
    """Hides lost workers: each start of a process makes a new one."""

    title = gettext_lazy("presence")
    parameter_name = "presence"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("gone", _("Gone")), ("all", _("All"))]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        first, *others = super().choices(changelist)
        yield {**first, "display": _("Present")}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "all":
                return queryset
            case "gone":
                return queryset.filter(lost_at__isnull=False)
            case _:
                return queryset.filter(lost_at=None)


# Columns.


@admin.display(description=gettext_lazy("Status"))
def status(worker: WorkerRecord) -> SafeString:
    look = worker_look(
        vars(worker), now=timezone.now(), renewed_every_seconds=conf().lease.renew_every
    )
    return format_html(
        '<span class="chip tone-{}"><span aria-hidden="true">{}</span>'
        '<span class="chip-word">{}</span></span>',
        look.tone,
        look.sign,
        look.label,
    )


@admin.display(description=gettext_lazy("In flight"))
def in_flight(worker: WorkerRecord) -> SafeString | str:
    """Write how many runs it executes, of how many; the number links to them."""
    count: int = getattr(worker, "running_count", 0)
    words = _("%(count)d of %(capacity)d") % {"count": count, "capacity": worker.capacity}
    if worker.limited_by and worker.lost_at is None:
        words = _("%(words)s (limited by %(limit)s)") % {
            "words": words,
            "limit": worker.limited_by,
        }
    if not count:
        return words
    runs = reverse("admin:runs_runrecord_changelist")
    return format_html('<a href="{}?worker={}&status=active">{}</a>', runs, worker.pk, words)


@admin.display(description=gettext_lazy("Heartbeat"), ordering="heartbeat_at")
def heartbeat(worker: WorkerRecord) -> str:
    if worker.lost_at is not None:
        return str(instant(worker.heartbeat_at, "day"))
    seconds = seconds_between(worker.heartbeat_at, timezone.now())
    return _("%(time)s ago") % {"time": duration(max(0.0, seconds))}


@admin.display(description=gettext_lazy("Started"), ordering="started_at")
def started(worker: WorkerRecord) -> SafeString:
    return instant(worker.started_at, "day")


@admin.display(description=gettext_lazy("Takes runs"))
def drain_button(worker: WorkerRecord) -> SafeString | str:
    """Draw the one button that makes sense now; it belongs to the list's form."""
    if worker.lost_at is not None:
        return ""
    name, words = ("take", _("Take runs again")) if worker.draining_at else ("drain", _("Drain"))
    return format_html(
        '<button type="submit" class="button worker-{}" formaction="{}" formnovalidate>{}'
        '<span class="visually-hidden"> {}</span></button>',
        name,
        reverse("admin:runs_workerrecord_draining", args=[worker.pk, name]),
        words,
        worker.name,
    )


class WorkerRecordAdmin(ReadOnlyAdmin):
    list_display = (status, "name", in_flight, heartbeat, started)
    list_display_links = ("name",)
    list_filter = (PresenceFilter,)
    search_fields = ("name",)
    search_help_text = gettext_lazy("Searches names: host and process id.")
    ordering = ("-started_at", "-id")
    sortable_by = ("name", heartbeat, started)  # type: ignore[assignment]  # as columns
    empty_value_display = ""
    fields = (  # type: ignore[assignment]  # fields may be callables here, too
        *("name", "id", status, in_flight, "host_identity", "pid"),
        *("started_at", "heartbeat_at", "lease_until", "draining_at", "lost_at"),
    )
    readonly_fields = fields  # type: ignore[assignment]
    actions = ("drain", "take")

    def get_queryset(self, request: HttpRequest) -> QuerySet[WorkerRecord]:
        # By the index on workers. A join would read all runs that a worker ever had.
        running = (
            RunRecord.objects.filter(worker=OuterRef("pk"), status=Status.RUNNING)
            .order_by()
            .values("worker")
            .annotate(count=Count("pk"))
            .values("count")
        )
        workers: QuerySet[WorkerRecord] = super().get_queryset(request)
        return workers.annotate(running_count=Coalesce(Subquery(running), 0))

    def get_list_display(self, request: HttpRequest) -> tuple[Any, ...]:
        own = (drain_button,) if self.has_drain_permission(request) else ()
        return (*self.list_display, *own)

    # Permissions.

    def has_delete_permission(self, request: HttpRequest, obj: WorkerRecord | None = None) -> bool:
        return False  # runs refer to their worker

    def has_drain_permission(self, request: HttpRequest) -> bool:
        """Return whether the buttons, the actions and their addresses exist."""
        may_change = request.user.has_perm("runs.change_workerrecord")
        return self.has_view_permission(request) and bool(may_change)

    # Draining.

    @admin.action(permissions=["drain"], description=gettext_lazy("Drain selected workers"))
    def drain(self, request: HttpRequest, queryset: QuerySet[WorkerRecord]) -> None:
        self._change(request, queryset, draining=True)

    @admin.action(
        permissions=["drain"], description=gettext_lazy("Let selected workers take runs again")
    )
    def take(self, request: HttpRequest, queryset: QuerySet[WorkerRecord]) -> None:
        self._change(request, queryset, draining=False)

    def get_urls(self) -> list[URLPattern]:
        where = r"^(?P<id>[0-9a-f-]{36})/(?P<what>drain|take)/$"
        view = self.admin_site.admin_view(self._change_one)
        return [re_path(where, view, name="runs_workerrecord_draining"), *super().get_urls()]

    def _change_one(self, request: HttpRequest, id: str, what: str) -> HttpResponse:
        if request.method != "POST" or not self.has_view_permission(request):
            raise Http404
        if not self.has_drain_permission(request):
            raise PermissionDenied
        found = self.get_queryset(request).filter(pk=id)
        if not found:
            raise Http404
        self._change(request, found, draining=what == "drain")
        return HttpResponseRedirect(reverse("admin:runs_workerrecord_changelist"))

    def _change(
        self, request: HttpRequest, workers: QuerySet[WorkerRecord], *, draining: bool
    ) -> None:
        change = leases.mark_draining if draining else leases.mark_taking
        message = "Asked to drain." if draining else "Asked to take runs again."
        changed = [worker for worker in workers if change(worker.pk)]
        for worker in changed:
            self.log_change(request, worker, message)
        if left := len(workers) - len(changed):
            words = ngettext(
                "%(count)d worker was left as it was: gone, or nothing had to change.",
                "%(count)d workers were left as they were: gone, or nothing had to change.",
                left,
            )
            self.message_user(request, words % {"count": left}, messages.WARNING)
        if changed:
            names = ", ".join(worker.name for worker in changed)
            words = (
                _("No more runs start on %(names)s; those in flight continue.")
                if draining
                else _("Runs may start on %(names)s again.")
            )
            self.message_user(request, words % {"names": names}, messages.SUCCESS)

    class Media:
        css = {"all": ["runs/admin/admin.css"]}
        js = [Script("runs/js/shell.js", type="module")]
