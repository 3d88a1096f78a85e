"""Bound the bytes of a page: the database counts large fields before any of them is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from django.db.models import F, Func, IntegerField, TextField, Value
from django.db.models.functions import Cast, Coalesce

from runs.models import RunRecord
from runs.wire import for_wire

__all__ = ["MOST_PAGE_BYTES", "count_that_fits", "with_large"]

#: Of the large fields of a page. A page has one run at least, however large it is.
MOST_PAGE_BYTES = 8 * 1024 * 1024

_COLUMNS = {
    "input": "input_record__value",
    "result": "result",
    "partial_result": "partial_result",
}


def count_that_fits(runs: Sequence[RunRecord], large: Collection[str]) -> int:
    """Return how many of ``runs``, from the first on, fit in a page with their large fields."""
    if not large or not runs:
        return len(runs)
    columns = [Coalesce(_Bytes(_COLUMNS[name]), 0) for name in large]
    total: Any = sum(columns, Value(0))
    records = RunRecord.objects.filter(pk__in=[run.pk for run in runs]).order_by()
    sizes = dict(records.values_list("pk", total))
    room = MOST_PAGE_BYTES
    for count, run in enumerate(runs):
        room -= sizes.get(run.pk, 0)
        if room < 0:
            return max(1, count)
    return len(runs)


def with_large(runs: Sequence[RunRecord], large: Collection[str]) -> list[RunRecord]:
    """Read ``runs`` again with their large fields; leave out those that were just deleted."""
    if not large:
        return list(runs)
    ids = [run.pk for run in runs]
    found = {run.pk: run for run in for_wire(RunRecord.objects.filter(pk__in=ids), large)}
    return [found[id] for id in ids if id in found]


class _Bytes(Func):
    """The length of a JSON column as text."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def __init__(self, column: str) -> None:
        super().__init__(Cast(F(column), TextField()))

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # OCTET_LENGTH is new in SQLite 3.43.
        template = "LENGTH(CAST(%(expressions)s AS BLOB))"
        return self.as_sql(compiler, connection, template=template, **context)
