"""Delete users in the admin, with the runs and entries that they own: counted, not listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import UserAdmin
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _

from runs.ops import removal

from ..models import OwnerUsage, RunRecord

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["OwnerAdmin", "register"]

_MOST_NAMED = 20


class OwnerAdmin(UserAdmin):
    """Django's own, except for how users are deleted."""

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Count what goes with users, by one query for each kind.

        A user with active runs can't be deleted, nor one with more events than a request can
        remove.
        """
        users = list(objs)
        counts: dict[StrOrPromise, int] = {self.opts.verbose_name_plural or "": len(users)}
        needed: set[StrOrPromise] = set()
        protected: list[StrOrPromise] = []
        for relation in self.opts.related_objects:
            model, name = relation.related_model, relation.field.name
            count = model._base_manager.filter(**{f"{name}__in": users}).count()
            if not count or relation.on_delete is not models.CASCADE:
                if count and relation.on_delete in (models.PROTECT, models.RESTRICT):
                    protected.append(f"{count:,} {model._meta.verbose_name_plural}")
                continue
            counts[model._meta.verbose_name_plural or ""] = count
            known = model is not OwnerUsage and self.admin_site.is_registered(model)
            if known and not self.admin_site.get_model_admin(model).has_delete_permission(request):
                needed.add(model._meta.verbose_name or "")
        runs = RunRecord.objects.filter(owner__in=users)
        extent = removal.extent_of(runs)
        counts[_("events")] = extent.events
        if runs.active().exists():
            text = _("runs that are not over: stop them first")
            if request.POST.get("post"):
                needed.add(text)  # answered 403
            else:
                protected.append(text)  # the page that asks doesn't blame a missing permission
        if extent.is_too_much:
            words = {"events": f"{extent.events:,}", "names": _named(users)}
            text = _(
                "%(events)s events: first remove old runs, by manage.py delete_old_runs "
                "--older-than 0h --owner %(names)s"
            )
            protected.append(text % words)
        return [_named(users)], {k: v for k, v in counts.items() if v}, needed, protected

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        _delete([obj.pk])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        _delete(list(queryset.values_list("pk", flat=True)))


def _delete(users: list[Any]) -> None:
    try:
        removal.delete_owners(users)
    except removal.StillActive:  # a run has started since the page was shown
        raise PermissionDenied from None


def _named(users: list[Any]) -> str:
    names = ", ".join(user.get_username() for user in users[:_MOST_NAMED])
    return names if len(users) <= _MOST_NAMED else _("%(names)s and others") % {"names": names}


def register() -> None:
    """Take the place of Django's own admin of users, if that is the one."""
    users = get_user_model()
    if type(admin.site._registry.get(users)) is UserAdmin:
        admin.site.unregister(users)
        admin.site.register(users, OwnerAdmin)
