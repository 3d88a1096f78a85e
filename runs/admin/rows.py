"""The columns of the admin's list of runs.

The same functions draw the whole list and the cells that change later, so the two can't differ. All
words come from ``runs.wording``, so the admin, the page and the command line say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, User
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from runs.wording import run as run_words
from runs.wording import time as time_words
from runs.wording.ladder import next_rung, planned_text, wire_part
from runs.wording.stop import oldest_awaited, waiting_detail, waiting_for

from ..models import RunRecord
from ..status import STOPPING
from ..templatetags.runs_pages import chip, instant, row_stop, sign, stop_word

__all__ = ["LIVE", "agent", "for_rows", "live_cells", "owner", "started", "status", "stop_column"]

_LARGE = ("result", "partial_result", "error", "stop_cleanup_error", "stop_left_behind")
Column = Callable[[RunRecord], SafeString | str]


def for_rows(runs: QuerySet[RunRecord]) -> QuerySet[RunRecord]:
    """Let a query join what the lines show, and leave out the large fields."""
    return runs.select_related("owner", "worker").defer(*_LARGE)


@admin.display(description=gettext_lazy("Status"))
def status(run: RunRecord) -> SafeString:
    """Draw sign and word; the page's script finds the line of a run by ``data-run``."""
    return format_html('<span data-run="{}">{}</span>', run.pk, chip(run.shown_status))


@admin.display(description=gettext_lazy("Agent"))
def agent(run: RunRecord) -> SafeString | str:
    if run.parent_id is None:
        return run.agent
    return format_html('{} <span class="quiet">{}</span>', run.agent, _("called by another"))


@admin.display(description=gettext_lazy("Owner"))
def owner(run: RunRecord) -> str:
    return run.owner.get_username()


# Ordered by creation, because that order has an index.
@admin.display(description=gettext_lazy("Started"), ordering="created_at")
def started(run: RunRecord) -> SafeString:
    if run.started_at is None:
        return format_html('<span class="quiet">{}</span>', _("not started"))
    return instant(run.started_at, "day")


@admin.display(description=gettext_lazy("Duration"))
def duration(run: RunRecord) -> SafeString | str:
    if run.started_at is None:
        return ""
    seconds = time_words.seconds_between(run.started_at, run.finished_at or timezone.now())
    text = time_words.duration(seconds)
    return text if run.is_terminal else _ticking(run.started_at, text)


@admin.display(description=gettext_lazy("Tokens"))
def tokens(run: RunRecord) -> str:
    if not run.llm_calls:
        return ""
    count = run.input_tokens + run.output_tokens
    return run_words.tokens(count, estimated=run.usage_estimated)


@admin.display(description=gettext_lazy("Worker"))
def worker(run: RunRecord) -> str:
    return run.worker.name if run.worker else ""


@admin.display(description=gettext_lazy("Waiting for"))
def waiting(run: RunRecord) -> SafeString | str:
    """Say what a stopping run waits for, and since when."""
    if run.shown_status != STOPPING:
        return ""
    wire = wire_part(run)
    oldest = oldest_awaited(wire)
    if oldest is None:
        return waiting_for(wire)
    label, since = oldest
    detail = waiting_detail(wire, timezone.now())
    ticks = _ticking(time_words.as_datetime(since), detail, label)
    plan = planned_text(wire, timezone.now())
    return format_html("{} {} {}", waiting_for(wire), ticks, plan)


def stop_column(user: User | AnonymousUser) -> Column:
    """Return the column with the buttons that ``user`` may press: Stop, Stop now, Give up on it.

    Each is a button of the list's form with another address. It works without a script; a form
    inside the list's form would be no valid HTML.
    """

    @admin.display(description=gettext_lazy("Stop"))
    def stop(run: RunRecord) -> SafeString | str:
        if run.is_terminal or not run.may_be_stopped_by(user):
            return ""
        offer = next_rung(wire_part(run)) if run.stop_requested else None
        return format_html(
            '<button type="submit" class="button run-stop" formaction="{}" formnovalidate {}>'
            '{}{}<span class="visually-hidden"> {}</span></button>',
            reverse("admin:runs_runrecord_stop", args=[run.pk]),
            row_stop(run.shown_status, offer),
            sign("stop"),
            stop_word(run.shown_status, offer),
            run.agent,
        )

    return stop


#: The columns whose cells may change; Stop is another, which depends on the user.
LIVE: tuple[Column, ...] = (status, started, duration, waiting, tokens, worker)


def live_cells(run: RunRecord, user: User | AnonymousUser) -> dict[str, SafeString | str]:
    """Return the cells of a line that may have changed, as ``user`` sees them, by column."""
    return {column.__name__: column(run) for column in (*LIVE, stop_column(user))}


def _ticking(since: datetime, text: str, label: str = "") -> SafeString:
    return format_html(
        '<span data-since="{}" data-label="{}">{}</span>',
        since.isoformat(),
        label,
        text,
    )
