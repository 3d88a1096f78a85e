"""What the list of runs can be narrowed by.

None of them looks through all runs to find out what there is to choose: agents come from the
registry, owners and workers from the newest runs. What is chosen by an address that says something
else is found all the same, and shown as chosen.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from agents import registry
from runs.wording.phrases import LOOKS

from ..models import RunRecord, WorkerRecord

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
    from django_stubs_ext import StrOrPromise

__all__ = ["LIST_FILTERS"]

_NOT_OVER = "active"
_NEWEST = 300  # runs that are looked at for owners to offer
_MOST_OFFERED = 8


class _RunFilter(admin.SimpleListFilter):
    """One that is there even while it offers a single choice, and never fails on nonsense."""

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        # A NUL is no text for PostgreSQL; it can be in an address, and in no row.
        return queryset.none() if "\0" in value else self.narrow(queryset, value)

    def narrow(self, queryset: Any, value: str) -> QuerySet[Any]:
        raise NotImplementedError


class StatusFilter(_RunFilter):
    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, StrOrPromise]]:
        return [(_NOT_OVER, _("Not over yet")), *((str(name), LOOKS[name].label) for name in LOOKS)]

    def narrow(self, queryset: Any, value: str) -> QuerySet[Any]:
        narrowed: QuerySet[Any] = (
            queryset.active() if value == _NOT_OVER else queryset.with_shown_status([value])
        )
        return narrowed


class AgentFilter(_RunFilter):
    title = _("agent")
    parameter_name = "agent"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = sorted(agent.name for agent in registry.all())
        chosen = request.GET.get(self.parameter_name)
        gone = [chosen] if chosen and chosen not in known else []
        return [(name, name) for name in known + gone]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(agent=value)


class OwnerFilter(_RunFilter):
    """Offers who has run something lately, and a field for everybody else's name."""

    title = _("owner")
    parameter_name = "owner"
    template = "admin/runs/runrecord/owner_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = RunRecord.objects.order_by("-created_at", "-id").values("owner_id")[:_NEWEST]
        name = get_user_model().USERNAME_FIELD
        names = get_user_model().objects.filter(pk__in=newest).order_by(name)
        return [(found, found) for found in names.values_list(name, flat=True)[:_MOST_OFFERED]]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        self.chosen = self.value() or ""
        kept = changelist.get_filters_params()
        #: For the form: what else the address says.
        self.kept = [
            (key, value)
            for key, values in kept.items()
            if key != self.parameter_name
            for value in values
        ]
        if changelist.query:
            self.kept.append(("q", changelist.query))
        return super().choices(changelist)

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        name = get_user_model().USERNAME_FIELD
        # Their ids first: the list is then read by the index of owners.
        owners = list(get_user_model().objects.filter(**{name: value}).values_list("pk", flat=True))
        return queryset.filter(owner__in=owners)


class WorkerFilter(_RunFilter):
    title = _("worker")
    parameter_name = "worker"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        alive = WorkerRecord.objects.filter(lost_at=None).order_by("-started_at")
        found = {str(id): name for id, name in alive.values_list("pk", "name")[:_MOST_OFFERED]}
        chosen = _as_uuid(request.GET.get(self.parameter_name, ""))
        if chosen and str(chosen) not in found:
            gone = WorkerRecord.objects.filter(pk=chosen).first()
            found[str(chosen)] = gone.name if gone else str(chosen)
        return list(found.items())

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        worker = _as_uuid(value)
        return queryset.filter(worker=worker) if worker else queryset.none()


class AgeFilter(_RunFilter):
    title = _("age")
    parameter_name = "age"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, StrOrPromise]]:
        return [
            ("hour", _("Last hour")),
            ("today", _("Today")),
            ("week", _("Last 7 days")),
            ("month", _("Last 30 days")),
        ]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        since = _began(value, timezone.now())
        return queryset.filter(created_at__gte=since) if since else queryset.none()


class CallerFilter(_RunFilter):
    title = _("caller")
    parameter_name = "called"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, StrOrPromise]]:
        return [("no", _("Begun by people")), ("yes", _("Called by other runs"))]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(parent__isnull=value != "yes")


# The longest list comes last.
LIST_FILTERS = (StatusFilter, AgeFilter, OwnerFilter, CallerFilter, WorkerFilter, AgentFilter)


def _began(name: str, now: datetime) -> datetime | None:
    match name:
        case "hour":
            return now - timedelta(hours=1)
        case "today":
            return timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
        case "week":
            return now - timedelta(days=7)
        case "month":
            return now - timedelta(days=30)
        case _:
            return None


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
