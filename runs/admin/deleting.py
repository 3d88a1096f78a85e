"""Runs may be deleted once they are over, and their whole tree with them.

Deleting a run deletes what it has called, so a run is only over, in this sense, when all of its
tree is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as delete_by_django
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..models import RunEvent, RunRecord

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

    from .run_list import RunRecordAdmin

__all__ = ["delete_selected", "may_be_deleted", "what_goes_too"]

MOST_AT_ONCE = 500  # each is a field of the page that asks; Django takes 1,000
_MOST_NAMED = 10


def may_be_deleted(run: RunRecord) -> bool:
    return run.is_terminal and not RunRecord.objects.active().filter(root=run.root_id).exists()


@admin.action(
    permissions=["delete"], description=gettext_lazy("Delete selected %(verbose_name_plural)s")
)
def delete_selected(desk: RunRecordAdmin, request: HttpRequest, runs: QuerySet[RunRecord]) -> Any:
    """Do as Django's own action, with those that are not over left out, and named."""
    alive = runs.filter(root__in=RunRecord.objects.active().values("root"))
    refused = list(alive.order_by("-created_at", "-id")[: _MOST_NAMED + 1])
    if refused:
        _name_refused(desk, request, refused)
    ids = set(runs.values_list("pk", flat=True)[: MOST_AT_ONCE * 2]) - set(
        alive.values_list("pk", flat=True)
    )
    if len(ids) > MOST_AT_ONCE:
        words = _("Nothing was deleted: please choose at most %(count)d runs at once.")
        desk.message_user(request, words % {"count": MOST_AT_ONCE}, messages.WARNING)
        return None
    if not ids:
        return None
    return delete_by_django(desk, request, RunRecord.objects.filter(pk__in=ids))


def _name_refused(desk: RunRecordAdmin, request: HttpRequest, runs: list[RunRecord]) -> None:
    names = ", ".join(str(run) for run in runs[:_MOST_NAMED])
    if len(runs) > _MOST_NAMED:
        names = _("%(names)s and others") % {"names": names}
    words = ngettext(
        "Not deleted, because it is not over: %(names)s. Stop it first.",
        "Not deleted, because they, or runs of their trees, are not over: %(names)s.",
        len(runs),
    )
    desk.message_user(request, words % {"names": names}, messages.WARNING)


def what_goes_too(
    runs: QuerySet[RunRecord] | list[RunRecord],
) -> tuple[list[str], dict[StrOrPromise, int]]:
    """Return the runs that deleting these would delete, by name, and how much in all.

    Django would read every event of every run to draw them all on one page.
    """
    found: dict[Any, RunRecord] = {run.pk: run for run in runs}
    newest = list(found)
    while newest:
        below = {run.pk: run for run in RunRecord.objects.filter(parent__in=newest).only("agent")}
        newest = [id for id in below if id not in found]
        found |= below
    counts: dict[StrOrPromise, int] = {
        RunRecord._meta.verbose_name_plural or "": len(found),
        gettext_lazy("events"): RunEvent.objects.filter(run__in=found).count(),
    }
    return [str(run) for run in found.values()], counts
