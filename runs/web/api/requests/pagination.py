"""Pages of runs, newest first, that neither skip nor repeat while new runs come in.

A cursor names a place between two runs by (created_at, id). DRF's own cursor counts rows where
instants are equal.
"""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param, replace_query_param

from runs.models import RunRecord
from runs.web.api.errors import InvalidFilter

from .parameters import whole_number

__all__ = ["MOST_PAGE_SIZE", "PAGE_PARAMETERS", "PAGE_SIZE", "Page", "read_page"]

PAGE_PARAMETERS = ("cursor", "page_size")
PAGE_SIZE = 50
MOST_PAGE_SIZE = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PACKED = struct.Struct(">?Q16s")


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, newest first, and the addresses of the older and of the newer ones."""

    runs: list[RunRecord]
    next: str | None = None
    previous: str | None = None

    def as_dict(self, results: Any) -> dict[str, Any]:
        """Return the page as it goes over the wire, with ``results`` for its runs."""
        return {"results": results, "next": self.next, "previous": self.previous}


class _Cursor(NamedTuple):
    """The place after a run, in one of two directions. Opaque to clients."""

    newer: bool  # the direction
    created_at: datetime
    id: uuid.UUID

    @classmethod
    def decode(cls, text: str) -> _Cursor:
        """Raises: ValueError, struct.error or OverflowError: it is no cursor."""
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
        newer, micros, id = _PACKED.unpack(raw)
        return cls(newer, _EPOCH + micros * _MICROSECOND, uuid.UUID(bytes=id))

    def encode(self) -> str:
        micros = (self.created_at - _EPOCH) // _MICROSECOND
        return base64.urlsafe_b64encode(_PACKED.pack(self.newer, micros, self.id.bytes)).decode()

    def beyond(self) -> Q:
        """Return the condition for the runs beyond the place, in the cursor's direction."""
        side = "gt" if self.newer else "lt"
        # The first half is what an index is searched by.
        return Q(**{f"created_at__{side}e": self.created_at}) & (
            Q(**{f"created_at__{side}": self.created_at}) | Q(**{f"id__{side}": self.id})
        )


def read_page(
    request: Request,
    runs: QuerySet[RunRecord],
    count_that_fits: Callable[[Sequence[RunRecord]], int] = len,
) -> Page:
    """Return the page of ``runs`` that the request asks for.

    ``count_that_fits`` says how many of its runs, from the first on, the page may have.

    Raises:
        InvalidFilter: cursor or page_size make no sense.
    """
    size = whole_number(request, "page_size", default=PAGE_SIZE, at_least=1, at_most=MOST_PAGE_SIZE)
    cursor = None
    if (text := request.query_params.get("cursor")) is not None:
        try:
            cursor = _Cursor.decode(text)
        except (ValueError, struct.error, OverflowError) as error:
            raise InvalidFilter({"cursor": ["This is no cursor of this list."]}) from error
        runs = runs.filter(cursor.beyond())
    goes_back = cursor is not None and cursor.newer
    order = ("created_at", "id") if goes_back else ("-created_at", "-id")
    found = list(runs.order_by(*order)[: size + 1])
    fitting = count_that_fits(found[:size])
    has_more = len(found) > fitting
    found = found[:fitting]
    if goes_back:
        found.reverse()

    def address(edge: list[RunRecord], *, newer: bool) -> str:
        # An empty page leads back to the place that the reader came from.
        place = edge[0] if edge else cursor
        assert place is not None, "an empty first page leads nowhere"
        text = _Cursor(newer, place.created_at, place.id).encode()
        url = remove_query_param(request.build_absolute_uri(), "cursor")
        return replace_query_param(url, "cursor", text)

    # There are always runs where the reader came from; and perhaps beyond this page.
    older = goes_back or has_more
    newer = has_more if goes_back else cursor is not None
    return Page(
        found,
        address(found[-1:], newer=False) if older else None,
        address(found[:1], newer=True) if newer else None,
    )
