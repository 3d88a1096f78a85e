"""The filters of the admin's list of runs.

No filter reads all runs to find its choices: agents come from the registry, owners and workers from
the newest runs. An address may name a value that is not offered; it is found, and shown as chosen.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from agents import registry
from runs.wording.status import LOOKS

from ..models import WorkerRecord

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
    from django_stubs_ext import StrOrPromise

__all__ = ["LIST_FILTERS", "MOST_OFFERED", "NEWEST", "FieldFilter", "OwnerFilter"]

_NOT_OVER = "active"
NEWEST = 300  # rows that are read to find choices
MOST_OFFERED = 8


class _Filter(admin.SimpleListFilter):
    """A filter that is shown even with a single choice, and takes any value."""

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        # PostgreSQL refuses a NUL in a text: an address can hold one, a row can not.
        return queryset.none() if "\0" in value else self.narrow(queryset, value)

    def narrow(self, queryset: Any, value: str) -> QuerySet[Any]:
        raise NotImplementedError


class StatusFilter(_Filter):
    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, StrOrPromise]]:
        return [(_NOT_OVER, _("Not over yet")), *((str(name), LOOKS[name].label) for name in LOOKS)]

    def narrow(self, queryset: Any, value: str) -> QuerySet[Any]:
        narrowed: QuerySet[Any] = (
            queryset.active() if value == _NOT_OVER else queryset.with_shown_status([value])
        )
        return narrowed


class AgentFilter(_Filter):
    title = _("agent")
    parameter_name = "agent"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = sorted(agent.name for agent in registry.all())
        chosen = request.GET.get(self.parameter_name)
        gone = [chosen] if chosen and chosen not in known else []
        return [(name, name) for name in known + gone]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(agent=value)


class FieldFilter(_Filter):
    """A filter with a few choices, and a text field for every other value.

    Attributes:
        placeholder: what to write into the field.
        kept: the other parameters of the address, which the form sends along.
    """

    template = "admin/runs/field_filter.html"
    placeholder: StrOrPromise

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        self.chosen = self.value() or ""
        self.kept = [
            (key, value)
            for key, values in changelist.get_filters_params().items()
            if key != self.parameter_name
            for value in values
        ]
        if changelist.query:
            self.kept.append(("q", changelist.query))
        return super().choices(changelist)


class OwnerFilter(FieldFilter):
    """Offers the owners of the newest rows."""

    title = _("owner")
    parameter_name = "owner"
    placeholder = _("username")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        newest = model_admin.model.objects.order_by("-pk").values("owner_id")[:NEWEST]
        name = get_user_model().USERNAME_FIELD
        names = get_user_model()._default_manager.filter(pk__in=newest).order_by(name)
        return [(found, found) for found in names.values_list(name, flat=True)[:MOST_OFFERED]]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        users = get_user_model()
        named = users._default_manager.filter(**{users.USERNAME_FIELD: value})
        # Their keys first: the list is then read by the index of owners.
        return queryset.filter(owner__in=list(named.values_list("pk", flat=True)))


class WorkerFilter(_Filter):
    title = _("worker")
    parameter_name = "worker"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        alive = WorkerRecord.objects.filter(lost_at=None).order_by("-started_at")
        found = {str(id): name for id, name in alive.values_list("pk", "name")[:MOST_OFFERED]}
        chosen = _as_uuid(request.GET.get(self.parameter_name, ""))
        if chosen and str(chosen) not in found:
            gone = WorkerRecord.objects.filter(pk=chosen).first()
            found[str(chosen)] = gone.name if gone else str(chosen)
        return list(found.items())

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        worker = _as_uuid(value)
        return queryset.filter(worker=worker) if worker else queryset.none()


class CallerFilter(_Filter):
    title = _("caller")
    parameter_name = "called"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, StrOrPromise]]:
        return [("no", _("Started by people")), ("yes", _("Called by other runs"))]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(parent__isnull=value != "yes")


class CreatedFilter(admin.DateFieldListFilter):
    """Django's filter, which also offers the past 30 days."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        since, links = self.lookup_kwarg_since, cast("tuple[Any, ...]", self.links)
        any_date, today, week, *others = links
        month = {**week[1], since: week[1][since] - timedelta(days=30 - 7)}
        self.links = (any_date, today, week, (_("Past 30 days"), month), *others)


# The longest list comes last.
LIST_FILTERS = (
    StatusFilter,
    ("created_at", CreatedFilter),
    *(OwnerFilter, CallerFilter, WorkerFilter, AgentFilter),
)


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
