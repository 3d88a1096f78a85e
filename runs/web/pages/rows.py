"""Runs as lines of a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import F, QuerySet
from django.utils import timezone

from runs.models import RunRecord
from runs.wording.run import usage_text
from runs.wording.time import duration, seconds_between

from .shell import agent_titles

__all__ = ["Row", "as_rows", "for_rows"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line; the texts are those that the feed sends, so that both can take turns."""

    record: RunRecord
    title: str
    caller: str  # title of the agent that called it; none of a root
    duration: str  # nothing before it has begun
    usage: str
    may_be_stopped: bool

    @property
    def ticks_since(self) -> datetime | None:
        """Since when it has been going on; none unless it is."""
        return None if self.record.is_terminal else self.record.started_at


def for_rows(runs: QuerySet[RunRecord]) -> QuerySet[RunRecord]:
    """Make a query bring along what lines show, and leave out what is large."""
    runs = runs.annotate(caller=F("parent__agent")).select_related("owner")
    return runs.defer("result", "partial_result", "error", "in_flight")


def as_rows(records: Iterable[RunRecord], user: User | AnonymousUser) -> list[Row]:
    """Return a line for each of ``records``, as ``user`` may see them."""
    titles = agent_titles()
    now = timezone.now()
    return [
        Row(
            record,
            titles.get(record.agent, record.agent),
            _caller(record, titles),
            _duration(record, now),
            _usage(record),
            not record.is_terminal and record.may_be_stopped_by(user),
        )
        for record in records
    ]


def _caller(record: RunRecord, titles: Mapping[str, str]) -> str:
    name: str = getattr(record, "caller", None) or ""  # see for_rows
    return titles.get(name, name)


def _duration(record: RunRecord, now: datetime) -> str:
    if record.started_at is None:
        return ""
    return duration(seconds_between(record.started_at, record.finished_at or now))


def _usage(record: RunRecord) -> str:
    return usage_text(
        {
            "llm_calls": record.llm_calls,
            "input_tokens": record.input_tokens,
            "output_tokens": record.output_tokens,
            "estimated": record.usage_estimated,
        }
    )
