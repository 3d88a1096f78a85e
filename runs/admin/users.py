"""Delete users in the admin, with the runs and entries that they own: counted, not listed.

Their active runs are asked to stop first. A user goes when they are over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as delete_by_django
from django.contrib.admin.utils import unquote
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from runs.actions.owners import stop_runs_of, wait_until_over
from runs.ops import removal

from ..models import OwnerUsage, RunRecord

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["OwnerAdmin", "register"]

_MOST_NAMED = 20


class OwnerAdmin(UserAdmin):
    """Django's own, except for how users are deleted."""

    actions = ("delete_selected",)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # Django's view is one transaction, in which a stop could not be committed.
        if request.method == "POST":
            user = self.get_object(request, unquote(object_id))
            may_delete = user is not None and self.has_delete_permission(request, user)
            if may_delete and not self._stop_first(request, [user]):
                return HttpResponseRedirect(request.get_full_path())
        return super().delete_view(request, object_id, extra_context)

    @admin.action(
        permissions=["delete"], description=gettext_lazy("Delete selected %(verbose_name_plural)s")
    )
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Do as Django's own action, when the runs of the users are over."""
        if request.POST.get("post") and not self._stop_first(request, list(queryset)):
            return None
        return delete_by_django(self, request, queryset)

    def _stop_first(self, request: HttpRequest, users: list[Any]) -> bool:
        """Ask the runs of users to stop, and wait for a few seconds; return False if that is short.

        What may not be deleted is not stopped either.
        """
        _names, _counts, needed, protected = self.get_deleted_objects(users, request)
        if needed or protected:
            return True
        owners = [user.pk for user in users]
        stop_runs_of(owners, by=request.user)
        left = wait_until_over(owners)
        if left:
            words = ngettext(
                "Nothing was deleted: %(count)d run of %(names)s is still stopping. Please try "
                "again in a moment.",
                "Nothing was deleted: %(count)d runs of %(names)s are still stopping. Please try "
                "again in a moment.",
                left,
            )
            names = {"count": left, "names": _named(users)}
            self.message_user(request, words % names, messages.WARNING)
        return not left

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Count what goes with users, by one query for each kind.

        A user with more events than a request can remove can't be deleted.
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
        counts[_("runs that are not over, and are asked to stop first")] = runs.active().count()
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
    """Take the place of Django's own admin of Django's own users; a site's own admin stays.

    A site that deletes users in its own one stops their runs all the same, by the signals of
    ``runs.actions.owners``.
    """
    users = get_user_model()
    if users is User and type(admin.site._registry.get(users)) is UserAdmin:
        admin.site.unregister(users)
        admin.site.register(users, OwnerAdmin)
