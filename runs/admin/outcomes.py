"""The outcomes of a bulk stop, in words: one for each run."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from runs.actions import stopping
from runs.wire import BulkWord

from ..models import RunRecord
from .rows import for_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["Line", "counts", "lines"]

_WORDS: dict[BulkWord, StrOrPromise] = {
    "accepted": _("accepted"),
    "already_stopping": _("was already stopping"),
    "already_finished": _("had finished"),
    "not_permitted": _("not permitted"),
    "not_found": _("not there any more"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One run and its outcome; ``run`` is None if it was deleted meanwhile."""

    id: str
    words: StrOrPromise
    run: RunRecord | None


def counts(outcomes: Sequence[stopping.BulkOutcome]) -> list[tuple[StrOrPromise, int]]:
    """Count the outcomes of each kind; a kind that did not occur is left out."""
    found = Counter(one.outcome for one in outcomes)
    return [(words, found[outcome]) for outcome, words in _WORDS.items() if found[outcome]]


def lines(outcomes: Sequence[stopping.BulkOutcome]) -> list[Line]:
    """Return a line for each outcome, in their order."""
    runs = for_rows(RunRecord.objects.all()).in_bulk([uuid.UUID(one.id) for one in outcomes])
    return [Line(one.id, _WORDS[one.outcome], runs.get(uuid.UUID(one.id))) for one in outcomes]
