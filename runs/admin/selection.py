"""Which runs a stop of many is about.

What is stopped is what was shown: the ids travel through the page that asks, so neither runs that
began meanwhile nor ids that somebody made up get in.
"""

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
from . import signed

__all__ = ["Chosen", "Selection", "Snapshot"]

_PURPOSE = "selection"
_CHUNK = 500  # parameters of one query
MOST_OVER = 1_000  # of those that were over already, so many are told of one by one


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a page asked about.

    Attributes:
        runs: those to stop.
        over: those that were over when the page was drawn; ``over_count`` may be more.
        is_everything: no filter narrowed it, so it takes a word to confirm.
    """

    runs: tuple[uuid.UUID, ...]
    over: tuple[uuid.UUID, ...] = ()
    over_count: int = 0
    is_everything: bool = False

    def sign(self, user: User) -> str:
        data = {
            "runs": signed.pack(self.runs),
            "over": signed.pack(self.over),
            "over_count": self.over_count,
            "is_everything": self.is_everything,
        }
        return signed.sign(data, user, purpose=_PURPOSE)

    @classmethod
    def read(cls, text: str, user: User) -> Snapshot:
        """Return what ``sign`` has written for ``user``.

        Raises:
            NotSigned: see ``signed.read``.
        """
        data = signed.read(text, user, purpose=_PURPOSE)
        runs, over = signed.unpack(data["runs"]), signed.unpack(data["over"])
        return cls(tuple(runs), tuple(over), data["over_count"], data["is_everything"])


@dataclass(slots=True)
class Chosen:
    """A run that is to be stopped, with how many below it stop, too."""

    id: uuid.UUID
    agent: str
    owner: str
    shown_status: str
    below_count: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """The runs of a query, sorted by what a stop by one user would come to.

    Attributes:
        chosen: to be stopped; of a tree only the topmost of those that were selected.
        not_permitted: not over, but not this user's to stop.
        over, over_count: nothing to stop; the first ``MOST_OVER`` of them, and how many.
    """

    chosen: list[Chosen]
    not_permitted: list[Chosen]
    over: list[uuid.UUID]
    over_count: int

    @classmethod
    def of(cls, runs: QuerySet[RunRecord], user: User) -> Selection:
        """Sort ``runs``, which are such as ``user`` may see."""
        permitted: list[RunRecord] = []
        others: list[RunRecord] = []
        reads = ("agent", "status", "stop_requested_at", "parent", "root", "owner")
        active = runs.filter(finished_at=None).select_related(None).select_related("owner")
        for run in active.only(*reads, f"owner__{User.USERNAME_FIELD}"):
            (permitted if run.may_be_stopped_by(user) else others).append(run)
        over = runs.filter(status__in=TERMINAL).values_list("pk", flat=True)
        first_over = list(over[: MOST_OVER + 1])
        return cls(
            _topmost(permitted),
            [_as_chosen(run) for run in others],
            first_over[:MOST_OVER],
            len(first_over) if len(first_over) <= MOST_OVER else over.count(),
        )

    @property
    def below_count(self) -> int:
        return sum(chosen.below_count for chosen in self.chosen)

    @property
    def is_empty(self) -> bool:
        return not self.chosen

    def snapshot(self, *, is_everything: bool = False) -> Snapshot:
        runs = tuple(chosen.id for chosen in self.chosen)
        return Snapshot(runs, tuple(self.over), self.over_count, is_everything)


def _topmost(selected: Sequence[RunRecord]) -> list[Chosen]:
    """Collapse trees: a run below another selected one is counted there."""
    chosen = {run.pk: _as_chosen(run) for run in selected}
    parents: dict[uuid.UUID, uuid.UUID | None] = {run.pk: run.parent_id for run in selected}
    alive = []
    for roots in _chunks({run.root_id for run in selected}):
        below = RunRecord.objects.filter(root__in=roots, parent__isnull=False)
        for id, caller, finished_at in below.values_list("pk", "parent_id", "finished_at"):
            parents[id] = caller
            if finished_at is None:
                alive.append(id)
    tops = {id: _top(id, parents, chosen) for id in {*alive, *chosen}}
    for id in alive:
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
