"""What came of a stop of many, in words, and as a file."""

from __future__ import annotations

import csv
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from django.http import HttpResponse
from django.utils.translation import gettext_lazy as _

from runs.actions import stopping

from ..models import RunRecord
from . import signed
from .rows import for_rows
from .selection import Snapshot

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django_stubs_ext import StrOrPromise

__all__ = ["OUTCOME_WORDS", "Line", "Outcomes"]

MOST_LISTED = 300
_PURPOSE = "outcomes"
_NAMES: tuple[stopping.BulkWord, ...] = get_args(stopping.BulkWord)

OUTCOME_WORDS: dict[stopping.BulkWord, StrOrPromise] = {
    "accepted": _("accepted"),
    "already_stopping": _("was already stopping"),
    "already_finished": _("had finished"),
    "not_permitted": _("not permitted"),
    "not_found": _("not there any more"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One run and what came of it; ``run`` is None if it was deleted meanwhile."""

    id: uuid.UUID
    words: StrOrPromise
    run: RunRecord | None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One outcome for each run that was asked for.

    Attributes:
        over_unlisted: so many more had finished before, and are told of by their number only.
    """

    outcomes: Sequence[tuple[uuid.UUID, stopping.BulkWord]]
    over_unlisted: int = 0

    @classmethod
    def of(cls, snapshot: Snapshot, stopped: Sequence[stopping.BulkOutcome]) -> Outcomes:
        found: list[tuple[uuid.UUID, stopping.BulkWord]] = [
            (uuid.UUID(one.id), one.outcome) for one in stopped
        ]
        found += [(id, "already_finished") for id in snapshot.over]
        return cls(found, snapshot.over_count - len(snapshot.over))

    @property
    def counts(self) -> list[tuple[StrOrPromise, int]]:
        """How many of each kind, those that there are."""
        counts = Counter(outcome for _id, outcome in self.outcomes)
        counts["already_finished"] += self.over_unlisted
        return [(words, counts[name]) for name, words in OUTCOME_WORDS.items() if counts[name]]

    @property
    def lines(self) -> list[Line]:
        """The first few hundred."""
        listed = self.outcomes[:MOST_LISTED]
        runs = for_rows(RunRecord.objects.all()).in_bulk([id for id, _outcome in listed])
        return [Line(id, OUTCOME_WORDS[outcome], runs.get(id)) for id, outcome in listed]

    @property
    def unlisted_count(self) -> int:
        return max(0, len(self.outcomes) - MOST_LISTED)

    def sign(self, user: User) -> str:
        """Write them for ``read``: the whole list can be fetched as a file by that."""
        data = {
            "runs": signed.pack(id for id, _outcome in self.outcomes),
            "outcomes": "".join(str(_NAMES.index(outcome)) for _id, outcome in self.outcomes),
        }
        return signed.sign(data, user, purpose=_PURPOSE)

    @classmethod
    def read(cls, text: str, user: User) -> Outcomes:
        """Return what ``sign`` has written for ``user``.

        Raises:
            NotSigned: see ``signed.read``.
        """
        data = signed.read(text, user, purpose=_PURPOSE)
        names = (_NAMES[int(digit)] for digit in data["outcomes"])
        return cls(list(zip(signed.unpack(data["runs"]), names, strict=True)))

    def as_file(self) -> HttpResponse:
        response = HttpResponse(content_type="text/csv; charset=utf-8")
        response.headers["Content-Disposition"] = 'attachment; filename="stopped-runs.csv"'
        writer = csv.writer(response)
        writer.writerow(["run", "outcome"])
        writer.writerows(self.outcomes)
        return response
