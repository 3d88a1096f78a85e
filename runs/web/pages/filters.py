"""The filters of the list of runs, as a person fills them in; the API decides what they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import QuerySet
from django.http import QueryDict
from django.utils.translation import gettext as _

from runs.models import RunQuerySet, RunRecord
from runs.web.api.errors import flat
from runs.web.api.requests.filters import RunFilterSerializer, filter_runs
from runs.wording.status import LOOKS, look
from runs.wording.time import is_time_zone

from .shell import agent_titles

__all__ = ["Filters"]

_SELDOM_USED = ("agent", "owner", "from", "to", "called")


class Filters:
    """The filters in an address.

    Attributes:
        agent, owner, first_day, last_day: as they were given.
        with_called: list the runs that agents called, too.
        errors: messages, by the names in the address.
    """

    def __init__(self, given: QueryDict) -> None:
        self._given = given
        self.agent = given.get("agent", "")
        self.owner = given.get("owner", "")
        self.first_day = given.get("from", "")
        self.last_day = given.get("to", "")
        self.with_called = bool(given.get("called"))
        self.errors: dict[str, list[str]] = {}
        words = (word.strip() for text in given.getlist("status") for word in text.split(","))
        self._chosen = list(dict.fromkeys(word for word in words if word))
        self._wanted = self._read()

    def narrow(self, runs: RunQuerySet) -> QuerySet[RunRecord]:
        """Return those of ``runs`` that the filters find; call it only if there are no errors."""
        found = filter_runs(runs, self._wanted)
        return found if self.with_called else found.filter(parent=None)

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The boxes to tick."""
        return [
            {"name": str(name), "label": str(its.label), "is_chosen": name in self._chosen}
            for name, its in LOOKS.items()
        ]

    @property
    def agents(self) -> dict[str, str]:
        """Name -> title of the agents to choose from; the chosen one too, even if it is gone."""
        gone = {self.agent: self.agent} if self.agent else {}
        return {**gone, **agent_titles()}

    @property
    def has_more(self) -> bool:
        """Whether any of the seldom used filters is given."""
        return any(self._given.get(name) for name in _SELDOM_USED)

    @property
    def in_force(self) -> list[dict[str, str]]:
        """The filters that narrow the list, each with the query that leaves it out."""
        found = [
            {
                "text": str(look(status).label),
                "query_without": self._query("status", [s for s in self._chosen if s != status]),
            }
            for status in self._chosen
        ]
        words = {
            "agent": self.agents.get(self.agent, ""),
            "owner": _("by %(name)s") % {"name": self.owner},
            "from": _("from %(day)s") % {"day": self.first_day},
            "to": _("until %(day)s") % {"day": self.last_day},
            "called": _("also called by others"),
        }
        return found + [
            {"text": text, "query_without": self._query(name, [])}
            for name, text in words.items()
            if self._given.get(name)
        ]

    def _query(self, name: str, values: list[str]) -> str:
        query = self._given.copy()
        query.pop("cursor", None)  # it leads into the list of these filters
        query.setlist(name, values)
        return query.urlencode()

    def _read(self) -> dict[str, Any]:
        name = self._given.get("zone", "")  # the page's script has sent it along
        zone = ZoneInfo(name) if is_time_zone(name) else UTC
        start = self._read_day("from", zone)
        end = self._read_day("to", zone, days_later=1)
        if start and end and start >= end:
            self.errors["to"] = [_("This is before the first day.")]
        asked = {
            "status": self._chosen,
            "agent": self.agent,
            "owner": self.owner,
            "created_after": start and start.isoformat(),
            "created_before": end and end.isoformat(),
        }
        serializer = RunFilterSerializer(data={name: some for name, some in asked.items() if some})
        if not serializer.is_valid():
            self.errors |= flat(serializer.errors)
            return {}
        wanted: dict[str, Any] = serializer.validated_data
        return wanted

    def _read_day(self, name: str, zone: tzinfo, *, days_later: int = 0) -> datetime | None:
        """Return the instant at which the day starts where the reader is."""
        text = self._given.get(name)
        if not text:
            return None
        try:
            day = datetime.strptime(text, "%Y-%m-%d") + timedelta(days=days_later)  # noqa: DTZ007
            return day.replace(tzinfo=zone).astimezone(UTC)
        except (ValueError, OverflowError):
            self.errors[name] = [_("This is no date. Write it like 2026-01-31.")]
            return None
