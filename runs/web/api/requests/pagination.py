"""Pages of runs, newest first, that neither skip nor repeat while new runs come in.

A cursor names a place between two runs by (created_at, id), not a number of rows: DRF's own cursor
falls back to counting where instants are equal.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.utils.urls import remove_query_param, replace_query_param

from runs.models import RunRecord
from runs.web.api.errors import InvalidFilter

from .parameters import whole_number

__all__ = ["PAGE_PARAMETERS", "Page", "read_page"]

PAGE_PARAMETERS = ("cursor", "page_size")
PAGE_SIZE = 50
MOST_PAGE_SIZE = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, newest first, and the addresses of the older and of the newer ones."""

    runs: list[RunRecord]
    next: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The place after a run, in one of two directions. Opaque to clients."""

    newer: bool  # going back, towards newer runs
    created_at: datetime
    id: uuid.UUID

    @classmethod
    def at(cls, run: RunRecord, *, newer: bool) -> _Cursor:
        return cls(newer, run.created_at, run.pk)

    @classmethod
    def decode(cls, text: str) -> _Cursor:
        """Raises: ValueError: it is none of ours."""
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
            if len(raw) != 25 or raw[0] > 1:
                raise ValueError("not a cursor")
            at = _EPOCH + int.from_bytes(raw[1:9], "big") * _MICROSECOND
        except (binascii.Error, OverflowError) as error:
            raise ValueError("not a cursor") from error
        return cls(bool(raw[0]), at, uuid.UUID(bytes=raw[9:]))

    def encode(self) -> str:
        micros = (self.created_at - _EPOCH) // _MICROSECOND
        raw = bytes([self.newer]) + micros.to_bytes(8, "big") + self.id.bytes
        return base64.urlsafe_b64encode(raw).decode()  # 25 bytes: ends in ==

    def turned(self) -> _Cursor:
        return _Cursor(not self.newer, self.created_at, self.id)

    def beyond(self) -> Q:
        """Return the condition for what lies beyond the place, in the cursor's direction."""
        side = "gt" if self.newer else "lt"
        # The first half is what an index is searched by.
        return Q(**{f"created_at__{side}e": self.created_at}) & (
            Q(**{f"created_at__{side}": self.created_at}) | Q(**{f"id__{side}": self.id})
        )


def read_page(request: Request, runs: QuerySet[RunRecord]) -> Page:
    """Return the page of ``runs`` that the request asks for.

    Raises:
        InvalidFilter: cursor or page_size make no sense.
    """
    size = whole_number(request, "page_size", default=PAGE_SIZE, at_least=1, at_most=MOST_PAGE_SIZE)
    cursor = _read_cursor(request)
    if cursor is not None:
        runs = runs.filter(cursor.beyond())
    goes_back = cursor is not None and cursor.newer
    order = ("created_at", "id") if goes_back else ("-created_at", "-id")
    found = list(runs.order_by(*order)[: size + 1])
    has_more = len(found) > size
    found = found[:size]
    if goes_back:
        found.reverse()
    # Where this page came from, there is always something; and perhaps beyond it.
    older = goes_back or has_more
    newer = (cursor is not None and not goes_back) or (goes_back and has_more)
    return Page(
        found,
        _address(request, found[-1:], cursor, newer=False) if older else None,
        _address(request, found[:1], cursor, newer=True) if newer else None,
    )


def _read_cursor(request: Request) -> _Cursor | None:
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        return _Cursor.decode(text)
    except ValueError as error:
        raise InvalidFilter({"cursor": ["This is no cursor of this list."]}) from error


def _address(
    request: Request, edge: list[RunRecord], cursor: _Cursor | None, *, newer: bool
) -> str:
    url = request.build_absolute_uri()
    if edge:
        place = _Cursor.at(edge[0], newer=newer)
    elif cursor is not None:  # nothing on this page: back to where it was come from
        place = cursor.turned()
    else:
        raise AssertionError("an empty first page leads nowhere")
    return replace_query_param(remove_query_param(url, "cursor"), "cursor", place.encode())


def page_as_dict(page: Page, results: Any) -> dict[str, Any]:
    """Return the page as it goes over the wire."""
    return {"results": results, "next": page.next, "previous": page.previous}
