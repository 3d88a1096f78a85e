"""The years, months and days above the list of runs.

Django's own would look at every run to find those days on which something ran: a second and more
with 100,000 runs. This one offers all between the first run and the last, which an index knows.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from django.utils import formats, timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

__all__ = ["FIELD", "day_links"]

FIELD = "created_at"
_YEAR, _MONTH, _DAY = (f"{FIELD}__{part}" for part in ("year", "month", "day"))


def day_links(cl: ChangeList) -> dict[str, Any]:
    """Return the context of Django's template ``admin/date_hierarchy.html``."""
    span = _span(cl)
    if span is None:
        return {"show": False}
    chosen = _chosen(cl)
    if not chosen and span[0].year == span[1].year:
        chosen = [span[0].year]
        if span[0].month == span[1].month:
            chosen.append(span[0].month)
        return {"show": True, "choices": list(_below(cl, chosen, span))}
    return {"show": True, "back": _back(cl, chosen), "choices": list(_below(cl, chosen, span))}


def _span(cl: ChangeList) -> tuple[date, date] | None:
    """Return the days of the first and the last of all runs that may be seen."""
    instants = cl.root_queryset.order_by().values_list(FIELD, flat=True)
    first = instants.order_by(FIELD).first()
    last = instants.order_by(f"-{FIELD}").first()
    if first is None or last is None:
        return None
    return timezone.localtime(first).date(), timezone.localtime(last).date()


def _chosen(cl: ChangeList) -> list[int]:
    """Return year, month and day of the address, as far as it names them and they exist."""
    chosen: list[int] = []
    for name in (_YEAR, _MONTH, _DAY):
        value = cl.params.get(name)
        if not value:
            break
        chosen.append(int(value[-1] if isinstance(value, list) else value))
    return chosen


def _below(cl: ChangeList, chosen: list[int], span: tuple[date, date]) -> Iterator[dict[str, Any]]:
    first, last = span
    match chosen:
        case []:
            for year in range(first.year, last.year + 1):
                yield {"link": _link(cl, year), "title": str(year)}
        case [year]:
            for month in range(1, 13):
                if (first.year, first.month) <= (year, month) <= (last.year, last.month):
                    yield {"link": _link(cl, year, month), "title": _month(year, month)}
        case [year, month]:
            for number in range(1, calendar.monthrange(year, month)[1] + 1):
                if first <= date(year, month, number) <= last:
                    title = _day(year, month, number)
                    yield {"link": _link(cl, year, month, number), "title": title}
        case [year, month, number]:
            yield {"title": _day(year, month, number)}


def _back(cl: ChangeList, chosen: list[int]) -> dict[str, str] | None:
    match chosen:
        case [year, month, _day_of_month]:
            return {"link": _link(cl, year, month), "title": _month(year, month)}
        case [year, _month_of_year]:
            return {"link": _link(cl, year), "title": str(year)}
        case [_year]:
            return {"link": _link(cl), "title": _("All dates")}
        case _:
            return None


def _link(cl: ChangeList, *parts: int) -> str:
    wanted = dict(zip((_YEAR, _MONTH, _DAY), parts, strict=False))
    return cl.get_query_string(wanted, [f"{FIELD}__"])


def _month(year: int, month: int) -> str:
    return capfirst(formats.date_format(date(year, month, 1), "YEAR_MONTH_FORMAT"))


def _day(year: int, month: int, number: int) -> str:
    return capfirst(formats.date_format(date(year, month, number), "MONTH_DAY_FORMAT"))
