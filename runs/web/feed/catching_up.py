"""How a hub catches up with the table: of runs that it heard something of, and by looking.

Twice a second it compares what it knows of each watched run with the table, so a lost message costs
half a second and nothing else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from django.utils import timezone

from runs.delivery import local_runs

from . import reading
from .reading import PAGE_COUNT, Fingerprint, Snapshot
from .tail import RunTail, Wakeable, model_call
from .tails import Tails, take_activity

if TYPE_CHECKING:
    from .listing import ListFollower

__all__ = ["LIST_LOOK_SECONDS", "CatchingUp", "TreeFollower"]

LIST_LOOK_SECONDS = 1.0
MOST_AT_ONCE = 200  # runs in one query
MOST_LISTED = 5_000


class TreeFollower(Wakeable, Protocol):
    """Whoever follows a tree."""

    def grow(self, members: dict[uuid.UUID, uuid.UUID | None]) -> None:
        """Learn of all runs of the tree, each with its caller."""


class CatchingUp:
    """What is to be read anew: runs, trees, the list; and who is told of it.

    Args:
        read: calls a function that reads the database.
        on_found: called with a tail that knows its run's record now.

    Attributes:
        trees: who follows which tree.
        lists: who follows the list.
    """

    def __init__(
        self,
        tails: Tails,
        read: Callable[..., Awaitable[Any]],
        on_found: Callable[[RunTail], None],
    ) -> None:
        self._tails = tails
        self._read = read
        self._on_found = on_found
        self.trees: dict[uuid.UUID, set[TreeFollower]] = {}
        self.lists: set[ListFollower] = set()
        self._stale: dict[uuid.UUID, None] = {}
        self._stale_trees: set[uuid.UUID] = set()
        self._listed: dict[uuid.UUID, Fingerprint] = {}
        self._list_news: dict[uuid.UUID, None] = {}
        self._work = asyncio.Event()

    @property
    def is_due(self) -> bool:
        """Whether something is known to be stale."""
        return bool(self._stale or self._stale_trees or self._list_news or self._work.is_set())

    def cares_for(self, root: uuid.UUID) -> bool:
        """Tell whether somebody here follows the runs of a tree, or all. From any thread."""
        return bool(self.lists) or root in self.trees or root in self._tails

    def note(self, run: uuid.UUID) -> None:
        """There is something new about a watched run."""
        self._stale[run] = None
        self._work.set()

    def note_tree(self, root: uuid.UUID) -> None:
        """A run was born in a tree."""
        self._stale_trees.add(root)
        self._work.set()

    def note_change(self, run: uuid.UUID, root: uuid.UUID) -> None:
        """A run is new, or its status or receipt reads otherwise."""
        if run in self._tails:
            self.note(run)
        if root in self.trees:
            self.note_tree(root)
        if self.lists:
            self._list_news[run] = None
            self._work.set()

    def try_again(self) -> None:
        """Go on with what could not be read."""
        self._work.set()

    # What is known to be stale.

    async def refresh(self) -> None:
        """Wait until something is stale, and read it."""
        await self._work.wait()
        self._work.clear()
        if self._stale_trees:
            await self._refresh_trees()
        while self._stale:
            some = list(self._stale)[:MOST_AT_ONCE]
            for id in some:
                del self._stale[id]
            ids = [id for id in some if id in self._tails]
            try:
                snapshots = await self._read(reading.read_snapshots, ids)
                for id in ids:
                    tail = self._tails.get(id)
                    if tail is not None:
                        await self._catch_up(tail, snapshots.get(id))
            except BaseException:
                self._stale |= dict.fromkeys(ids)
                raise
        if self._list_news:
            await self._refresh_lists()

    async def _catch_up(self, tail: RunTail, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            tail.go()
            return
        if tail.snapshot is None:
            # What comes from now on is heard, or found by the next look; the rest is in the table.
            tail.begin_at(max(tail.last_seq, snapshot.last_seq))
        else:
            await self._fill(tail, snapshot.last_seq)
        if not take_activity(tail) and not snapshot.is_over:
            tail.set_activity(snapshot.run["in_flight"], snapshot.run["usage"])
        is_first = tail.snapshot is None
        tail.show(snapshot)
        if is_first:
            self._on_found(tail)

    async def _fill(self, tail: RunTail, last_seq: int) -> None:
        """Read the events that nobody told of; very many are left in the table."""
        if last_seq <= tail.last_seq:
            return
        if last_seq - tail.last_seq > PAGE_COUNT:
            tail.begin_at(last_seq)
            return
        first = tail.last_seq + 1
        missing = await self._read(reading.read_events, tail.id, first, last_seq)
        for seq, event in enumerate(missing, first):
            if tail.texts and (call := model_call(event)):
                tail.texts.end(call)
            tail.add(seq, event)

    async def _refresh_trees(self) -> None:
        roots, self._stale_trees = self._stale_trees & self.trees.keys(), set()
        if not roots:
            return
        try:
            trees = await self._read(reading.read_trees, roots)
        except BaseException:
            self._stale_trees |= roots
            raise
        for root, members in trees.items():
            for follower in list(self.trees.get(root, ())):
                follower.grow(members)

    async def _refresh_lists(self) -> None:
        news, self._list_news = self._list_news, {}
        ids = list(news)
        for start in range(0, len(ids), MOST_AT_ONCE):
            try:
                snapshots = await self._read(
                    reading.read_snapshots, ids[start : start + MOST_AT_ONCE]
                )
            except BaseException:
                self._list_news = dict.fromkeys(ids[start:]) | self._list_news
                raise
            for follower in list(self.lists):
                follower.take(snapshots.values())

    # Looking for what nobody told of.

    async def look(self) -> None:
        """Compare the watched runs with the table."""
        self._stale_trees |= self.trees.keys()
        if self._stale_trees:
            self._work.set()
        watched = [tail for tail in self._tails if not (tail.is_complete or tail.is_gone)]
        for start in range(0, len(watched), MOST_AT_ONCE):
            some = watched[start : start + MOST_AT_ONCE]
            found = await self._read(reading.fingerprints, [tail.id for tail in some])
            for tail in some:
                take_activity(tail)
                if _has_news(tail, found.get(tail.id)):
                    self.note(tail.id)
                tail.fingerprint = found.get(tail.id)

    async def look_at_lists(self) -> None:
        """Compare the runs that are not over, and the young ones, with the table."""
        if not self.lists:
            self._listed.clear()
            return
        young = timezone.now() - timedelta(seconds=5 * LIST_LOOK_SECONDS)
        found = await self._read(reading.active_runs, young, MOST_LISTED)
        news = {id for id, fingerprint in found.items() if self._listed.get(id) != fingerprint}
        news |= self._listed.keys() - found.keys()
        self._listed = found
        if news:
            self._list_news |= dict.fromkeys(news)
            self._work.set()


def _has_news(tail: RunTail, found: Fingerprint | None) -> bool:
    """Tell whether a look has found what is not known of a run yet."""
    before = tail.fingerprint
    if found is None or before is None or found.receipt != before.receipt:
        return True
    if found.last_seq > tail.last_seq:
        return True
    if found.activity != before.activity and local_runs.get(tail.id) is None:
        return True
    # A worker that falls silent changes nothing in the record of a run that is to stop.
    return tail.snapshot is not None and tail.snapshot.run["stop"] is not None
