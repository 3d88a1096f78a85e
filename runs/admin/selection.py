"""The runs that a bulk stop is about, sorted before a person confirms it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet

from ..models import RunRecord
from ..status import TERMINAL

__all__ = ["Chosen", "Selection"]

_CHUNK = 500  # parameters of one query
_MOST_OVER = 1_000


@dataclass(slots=True)
class Chosen:
    """A run to stop, and how many active runs below it stop with it."""

    id: uuid.UUID
    agent: str
    owner: str
    shown_status: str
    below_count: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """The runs of a query, sorted by what a stop by one user does to them.

    Attributes:
        chosen: runs to stop; of each tree only the topmost of the selected runs.
        not_permitted: active runs that this user must not stop.
        over: finished runs; empty if there are more than ``_MOST_OVER``.
        over_count: how many finished runs there are.
    """

    chosen: list[Chosen]
    not_permitted: list[Chosen]
    over: list[uuid.UUID]
    over_count: int

    @classmethod
    def of(cls, runs: QuerySet[RunRecord], user: User) -> Selection:
        """Sort ``runs``, all of which ``user`` may see."""
        permitted: list[RunRecord] = []
        others: list[RunRecord] = []
        reads = ("agent", "status", "stop_requested_at", "parent", "root", "owner")
        active = runs.filter(finished_at=None).select_related(None).select_related("owner")
        for run in active.only(*reads, f"owner__{User.USERNAME_FIELD}"):
            (permitted if run.may_be_stopped_by(user) else others).append(run)
        over = runs.filter(status__in=TERMINAL).values_list("pk", flat=True)
        first_over = list(over[: _MOST_OVER + 1])
        is_whole = len(first_over) <= _MOST_OVER
        return cls(
            _topmost(permitted),
            [_as_chosen(run) for run in others],
            first_over if is_whole else [],
            len(first_over) if is_whole else over.count(),
        )

    @property
    def ids(self) -> list[uuid.UUID]:
        """The runs to confirm, and the finished ones, so that each of them gets an outcome."""
        return [*(chosen.id for chosen in self.chosen), *self.over]

    @property
    def below_count(self) -> int:
        return sum(chosen.below_count for chosen in self.chosen)


def _topmost(selected: Sequence[RunRecord]) -> list[Chosen]:
    """Collapse trees: count a run below another selected run there."""
    chosen = {run.pk: _as_chosen(run) for run in selected}
    parents: dict[uuid.UUID, uuid.UUID | None] = {run.pk: run.parent_id for run in selected}
    active = []
    for roots in _chunks({run.root_id for run in selected}):
        below = RunRecord.objects.filter(root__in=roots, parent__isnull=False)
        for id, parent, finished_at in below.values_list("pk", "parent_id", "finished_at"):
            parents[id] = parent
            if finished_at is None:
                active.append(id)
    tops = {id: _top(id, parents, chosen) for id in {*active, *chosen}}
    for id in active:
        top = tops[id]
        if top is not None and top != id:
            chosen[top].below_count += 1
    return [one for id, one in chosen.items() if tops[id] == id]


def _top(
    id: uuid.UUID, parents: dict[uuid.UUID, uuid.UUID | None], chosen: dict[uuid.UUID, Chosen]
) -> uuid.UUID | None:
    """Return the topmost selected run at or above ``id``, if there is one."""
    top: uuid.UUID | None = None
    at: uuid.UUID | None = id
    while at is not None:
        if at in chosen:
            top = at
        at = parents.get(at)
    return top


def _as_chosen(run: RunRecord) -> Chosen:
    return Chosen(run.pk, run.agent, run.owner.get_username(), run.shown_status)


def _chunks(ids: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(ids)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
