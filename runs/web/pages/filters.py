"""The filters of the list of runs, as a person fills them in; what they mean is the API's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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

__all__ = ["Filters", "InForce", "StatusChoice"]

_SELDOM_USED = ("agent", "owner", "from", "to", "called")


@dataclass(frozen=True, slots=True)
class StatusChoice:
    """A box to tick."""

    name: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class InForce:
    """A filter that narrows the list, and the query that goes on without it."""

    text: str
    query_without: str


class Filters:
    """What an address asks for.

    Attributes:
        agent, owner, first_day, last_day: as they were given.
        with_called: runs that agents called are listed, too.
        errors: what is wrong, by the names in the address.
    """

    def __init__(self, given: QueryDict) -> None:
        self._given = given
        self.agent = given.get("agent", "")
        self.owner = given.get("owner", "")
        self.first_day = given.get("from", "")
        self.last_day = given.get("to", "")
        self.with_called = bool(given.get("called"))
        self.errors: dict[str, list[str]] = {}
        self._chosen = _statuses(given)
        self._wanted = self._read()

    def narrow(self, runs: RunQuerySet) -> QuerySet[RunRecord]:
        """Return those of ``runs`` that are asked for; only if there are no errors."""
        found = filter_runs(runs, self._wanted)
        return found if self.with_called else found.filter(parent=None)

    @property
    def statuses(self) -> list[StatusChoice]:
        return [
            StatusChoice(str(name), str(LOOKS[name].label), name in self._chosen) for name in LOOKS
        ]

    @property
    def agents(self) -> dict[str, str]:
        """Name -> title of what can be chosen; what was chosen is there, even if it is gone."""
        gone = {self.agent: self.agent} if self.agent else {}
        return {**gone, **agent_titles()}

    @property
    def has_more(self) -> bool:
        """Whether any of those is in force, or wrong, that seldom are."""
        return any(self._given.get(name) for name in _SELDOM_USED)

    @property
    def in_force(self) -> list[InForce]:
        return list(self._in_force())

    def _read(self) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "status": self._chosen,
            "agent": self.agent,
            "owner": self.owner,
            **self._read_days(),
        }
        serializer = RunFilterSerializer(data={name: some for name, some in asked.items() if some})
        if not serializer.is_valid():
            self.errors |= flat(serializer.errors)
            return {}
        wanted: dict[str, Any] = serializer.validated_data
        return wanted

    def _read_days(self) -> dict[str, str]:
        zone = _zone(self._given.get("zone", ""))
        begin = self._read_day("from", self.first_day, zone)
        end = self._read_day("to", self.last_day, zone, days_later=1)
        if begin and end and begin >= end:
            self.errors["to"] = [_("This is before the first day.")]
        return {
            "created_after": begin.isoformat() if begin else "",
            "created_before": end.isoformat() if end else "",
        }

    def _read_day(
        self, name: str, text: str, zone: tzinfo, *, days_later: int = 0
    ) -> datetime | None:
        """Return the instant at which the day begins where the reader is."""
        if not text:
            return None
        try:
            day = datetime.strptime(text, "%Y-%m-%d") + timedelta(days=days_later)  # noqa: DTZ007
            return day.replace(tzinfo=zone).astimezone(UTC)
        except (ValueError, OverflowError):
            self.errors[name] = [_("This is no date. Write it like 2026-01-31.")]
            return None

    def _in_force(self) -> Iterator[InForce]:
        for status in self._chosen:
            others = [other for other in self._chosen if other != status]
            yield InForce(str(look(status).label), self._query(status=others))
        words = {
            "agent": self.agents.get(self.agent, ""),
            "owner": _("by %(name)s") % {"name": self.owner},
            "from": _("from %(day)s") % {"day": self.first_day},
            "to": _("until %(day)s") % {"day": self.last_day},
            "called": _("also called by others"),
        }
        for name, text in words.items():
            if self._given.get(name):
                yield InForce(text, self._query(**{name: []}))

    def _query(self, **changes: list[str]) -> str:
        query = self._given.copy()
        query.pop("cursor", None)  # it leads into the list as it was
        for name, values in changes.items():
            query.setlist(name, values)
        return query.urlencode()


def _statuses(given: QueryDict) -> list[str]:
    words = (word.strip() for text in given.getlist("status") for word in text.split(","))
    return list(dict.fromkeys(word for word in words if word))


def _zone(name: str) -> tzinfo:
    """Return the time zone that the page's script has sent along, UTC without one."""
    return ZoneInfo(name) if is_time_zone(name) else UTC
