"""API tokens in the admin, to revoke them, and the audit log, to read it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from runs.identity import tokens
from runs.identity.models import ApiToken, AuditEntry

from .read_only import ReadOnlyAdmin

__all__ = ["ApiTokenAdmin", "AuditEntryAdmin"]


class ApiTokenAdmin(ReadOnlyAdmin):
    """Deleting a token revokes it. Its key is nowhere to be seen."""

    list_display = (
        "__str__",
        "user",
        "hint",
        "created_at",
        "expires_at",
        "last_used_at",
        "last_address",
        "state",
    )
    list_select_related = ("user",)
    search_fields = ("name", "hint", f"user__{get_user_model().USERNAME_FIELD}")
    fields = list_display

    @admin.display(description=gettext_lazy("State"))
    def state(self, token: ApiToken) -> str:
        match tokens.why_refused(token):
            case "password":
                return _("ended with the password")
            case "expired":
                return _("expired")
            case "inactive":
                return _("its user is not active")
        return _("good")

    def delete_model(self, request: HttpRequest, obj: ApiToken) -> None:
        tokens.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        for token in queryset.select_related("user"):
            tokens.remove(token)


class AuditEntryAdmin(ReadOnlyAdmin):
    """Who did what, when, and from where."""

    list_display = ("when", "act", "actor_name", "address", "subject", "detail", "count")
    list_filter = ("act",)
    date_hierarchy = "at"
    search_fields = ("actor", "subject", "address", "detail")
    sortable_by = ("when",)
    fields = (*list_display, "actor_id")

    @admin.display(description=gettext_lazy("At"), ordering="at")
    def when(self, entry: AuditEntry) -> str:
        # Django's own format has no seconds, and an order of acts needs them.
        # It may break between day and time only, or the table is wider than the page.
        day, time = f"{timezone.localtime(entry.at):%Y-%m-%d %H:%M:%S %Z}".split(" ", 1)
        return format_html(
            '<span class="nowrap">{}</span> <span class="nowrap">{}</span>', day, time
        )

    @admin.display(description=gettext_lazy("By"))
    def actor_name(self, entry: AuditEntry) -> str:
        if entry.actor:
            return entry.actor
        is_failure = entry.act == "sign_in_failed"
        return _("no such user") if is_failure else _("no user")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
