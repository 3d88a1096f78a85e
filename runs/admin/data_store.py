"""The entries of the data store in the admin: find, read, delete. Values can be large."""

from __future__ import annotations

import json
import re
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast, Length, Substr
from django.forms import Script
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from runs.ops.removal import delete_entries
from runs.web.pages.values.rendering import MAX_RAW, show_plainly

from ..models import DataStoreEntry
from ..templatetags.runs_pages import instant
from .list_filters import MOST_OFFERED, NEWEST, FieldFilter, OwnerFilter
from .read_only import ReadOnlyAdmin
from .search import contains_json, owners_named

__all__ = ["DataStoreEntryAdmin"]

SHOWN_CHARACTERS = 60  # of a value in the list
NEWEST_VALUES = 1_000
MOST_VALUE_CHARACTERS = 64 * 1024


# Filters.


class NamespaceFilter(FieldFilter):
    """Offers the namespaces of the newest entries."""

    title = _("namespace")
    parameter_name = "namespace"
    placeholder = _("namespace")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        newest = DataStoreEntry.objects.order_by("-pk").values_list("namespace", flat=True)
        found = list(dict.fromkeys(newest[:NEWEST]))[:MOST_OFFERED]
        return [(name, name) for name in sorted(found)]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(namespace=value)


# Columns.


@admin.display(description=_("Value"))
def short_value(entry: DataStoreEntry) -> str:
    """Write the start of a value; the list reads no more of it."""
    text: str | None = getattr(entry, "start", None)
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
    """Return the start of a JSON text, its escapes decoded."""
    if is_cut:
        # SQLite stores characters beyond ASCII as \uXXXX, PostgreSQL as they are.
        text = re.sub(r"\\(u[0-9a-fA-F]{0,3})?$", "", text)
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = text.removeprefix('"') + "…"
    else:
        value = json.loads(text)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # Join surrogate pairs, and replace a half that has lost the other one.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Details.


@admin.display(description=_("Value"))
def value(entry: DataStoreEntry) -> SafeString:
    return _as_json(entry.value)


@admin.display(description=_("Metadata"))
def metadata(entry: DataStoreEntry) -> SafeString:
    return _as_json(entry.metadata)


def _as_json(value: Any) -> SafeString:
    shown = show_plainly(value)
    note = _("Only the first %d characters are shown.") % MAX_RAW if shown.is_cut else ""
    return format_html('<pre dir="auto">{}</pre>{}', shown.raw, note)


class DataStoreEntryAdmin(ReadOnlyAdmin):
    list_display = ("key", "namespace", "owner", short_value, size, updated)
    list_display_links = ("key",)
    list_filter = (OwnerFilter, NamespaceFilter)
    # The order of the one index, so that the database need not sort.
    ordering = ("owner_id", "namespace", "key")
    sortable_by = (updated,)  # type: ignore[assignment]  # columns may be callables here, too
    search_fields = ("pk",)  # shows the field; get_search_results does the search
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
            .annotate(start=Substr(text, 1, SHOWN_CHARACTERS), characters=Length(text))
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return _search(queryset, search_term.strip()), False

    def delete_model(self, request: HttpRequest, obj: DataStoreEntry) -> None:
        delete_entries(DataStoreEntry.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[DataStoreEntry]) -> None:
        delete_entries(DataStoreEntry.objects.filter(pk__in=queryset.values("pk")))

    class Media:
        css = {"all": ["runs/admin/admin.css"]}
        js = [Script("runs/js/shell.js", type="module")]


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
