"""What agents keep, in the admin: find, look, delete. Values can be large, and are never edited."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast, Length, Substr
from django.http import Http404, HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from runs.web.pages.values.rendering import as_text, show

from ..models import DataStoreEntry
from ..templatetags.runs_pages import instant
from .list_filters import OwnerFilter
from .search import contains_json, owners_named

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["DataStoreEntryAdmin"]

SHOWN_CHARACTERS = 60  # of a value in the list
NEWEST_VALUES = 1_000
MOST_VALUE_CHARACTERS = 64 * 1024
_NEWEST = 300  # entries that are looked at for what to offer as filters
_MOST_OFFERED = 8


# Filters. Neither looks through all entries to find out what there is to choose.


class EntryOwnerFilter(OwnerFilter):
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        name = get_user_model().USERNAME_FIELD
        newest = DataStoreEntry.objects.order_by("-pk").values("owner_id")[:_NEWEST]
        names = get_user_model().objects.filter(pk__in=newest).order_by(name)
        return [(found, found) for found in names.values_list(name, flat=True)[:_MOST_OFFERED]]


class NamespaceFilter(OwnerFilter):
    """Offers what was written to lately, and a field for every other name."""

    title = _("namespace")
    parameter_name = "namespace"
    template = "admin/runs/datastoreentry/namespace_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        newest = DataStoreEntry.objects.order_by("-pk").values_list("namespace", flat=True)
        found = list(dict.fromkeys(newest[:_NEWEST]))[:_MOST_OFFERED]
        return [(name, name) for name in sorted(found)]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(namespace=value)


# Columns.


@admin.display(description=_("Value"))
def short_value(entry: DataStoreEntry) -> str:
    """Write the beginning of a value; the list does not read more of it."""
    text: str | None = getattr(entry, "beginning", None)
    if text is None:
        return "null"
    return _readable(text, is_cut=_characters(entry) > SHOWN_CHARACTERS)


@admin.display(description=_("Size"))
def size(entry: DataStoreEntry) -> str:
    return filesizeformat(_characters(entry))


def _characters(entry: DataStoreEntry) -> int:
    return getattr(entry, "characters", None) or 0


@admin.display(description=_("Updated"), ordering="updated_at")
def updated(entry: DataStoreEntry) -> SafeString:
    return instant(entry.updated_at, "day")


def _readable(text: str, *, is_cut: bool) -> str:
    """Return the beginning of a JSON text with its characters written out."""
    if not is_cut:
        value = json.loads(text)
        whole = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return _without_halves(whole)
    # Databases write what is beyond ASCII as \uXXXX, or as it is.
    whole_escapes = re.sub(r"\\(u[0-9a-fA-F]{0,3})?$", "", text)
    written = re.sub(
        r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), whole_escapes
    ).removeprefix('"')
    return f"{_without_halves(written)}…"


def _without_halves(text: str) -> str:
    """Join surrogates; a half without its other is no text that could be sent."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Details.


@admin.display(description=_("Value"))
def value(entry: DataStoreEntry) -> SafeString:
    address = reverse("admin:runs_datastoreentry_value", args=[entry.pk])
    return _drawn(entry.value, address)


@admin.display(description=_("Metadata"))
def metadata(entry: DataStoreEntry) -> StrOrPromise:
    return _drawn(entry.metadata, "") if entry.metadata else _("none")


def _drawn(value: Any, download: str) -> SafeString:
    context = {"shown": show(value), "download": download}
    return render_to_string("admin/runs/datastoreentry/value.html", context)


class DataStoreEntryAdmin(admin.ModelAdmin):
    list_display = ("key", "namespace", "owner", short_value, size, updated)
    list_display_links = ("key",)
    list_filter = (EntryOwnerFilter, NamespaceFilter)
    # In the order of the one index, which the database has them in already.
    ordering = ("owner_id", "namespace", "key")
    sortable_by = (updated,)  # type: ignore[assignment]  # columns may be callables here, too
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    search_fields = ("pk",)  # shows the field; get_search_results says what it does
    search_help_text = _(
        "Searches namespaces, keys, names of owners, and the text of values up to 64 kB of the "
        "newest 1,000 entries that match the filters."
    )
    fields = (  # type: ignore[assignment]  # fields may be callables here, too
        *("namespace", "key", "owner", value, metadata),
        *("created_at", "updated_at"),
    )
    readonly_fields = fields  # type: ignore[assignment]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DataStoreEntry]:
        entries: QuerySet[DataStoreEntry] = super().get_queryset(request)
        text = Cast("value", TextField())
        return (
            entries.select_related("owner")
            .defer("value", "metadata")
            .annotate(beginning=Substr(text, 1, SHOWN_CHARACTERS), characters=Length(text))
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return _search(queryset, search_term.strip()), False

    # Who may do what. Deleting is Django's own permission.

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(
        self, request: HttpRequest, obj: DataStoreEntry | None = None
    ) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: DataStoreEntry | None = None) -> bool:
        return bool(request.user.has_perm("runs.view_datastoreentry"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_delete_permission(
        self, request: HttpRequest, obj: DataStoreEntry | None = None
    ) -> bool:
        return self.has_view_permission(request) and super().has_delete_permission(request, obj)

    # Where.

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(partial(_send_value, self))
        own = [path("<int:id>/value/", view, name="runs_datastoreentry_value")]
        return own + super().get_urls()


def _send_value(desk: DataStoreEntryAdmin, request: HttpRequest, id: int) -> HttpResponse:
    """Send a value as a file, all of it."""
    if not desk.has_view_permission(request):
        raise PermissionDenied
    entry = DataStoreEntry.objects.filter(pk=id).first()
    if entry is None:
        raise Http404
    is_text = isinstance(entry.value, str)
    kind, extension = ("text/plain", "txt") if is_text else ("application/json", "json")
    response = HttpResponse(as_text(entry.value), f"{kind}; charset=utf-8")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", str(entry))[:80].strip("-") or "value"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.{extension}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _search(entries: QuerySet[Any], text: str) -> QuerySet[Any]:
    if not text:
        return entries
    newest = entries.order_by("-pk").values("pk")[:NEWEST_VALUES]
    small = DataStoreEntry.objects.annotate(text=Cast("value", TextField())).filter(pk__in=newest)
    with_value = small.annotate(characters=Length("text")).filter(
        contains_json("text", text), characters__lte=MOST_VALUE_CHARACTERS
    )
    return entries.filter(
        Q(namespace__icontains=text)
        | Q(key__icontains=text)
        | Q(owner__in=owners_named(text))
        | Q(pk__in=list(with_value.values_list("pk", flat=True)))
    )
