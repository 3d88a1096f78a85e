"""Brings what a hub knows up to date with the table: what has changed, and by polling.

Twice a second the hub compares what it knows of each followed run with the table, so a lost message
costs half a second and nothing else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, Protocol

from django.utils import timezone

from . import reading
from .reading import PAGE_COUNT, Fingerprint, Snapshot
from .tail import RunTail, Tails, Wakeable, model_call

__all__ = ["LIST_POLL_SECONDS", "ListReader", "Refresher", "TreeReader"]

LIST_POLL_SECONDS = 1.0
MOST_AT_ONCE = 200  # runs in one query
MOST_LISTED = 5_000


class TreeReader(Wakeable, Protocol):
    """A reader of a tree."""

    def grow(self, members: dict[uuid.UUID, uuid.UUID | None]) -> None:
        """Learn of all runs of the tree, each with its caller."""


class ListReader(Wakeable, Protocol):
    """A reader of the list."""

    def take(self, snapshots: Iterable[Snapshot]) -> None:
        """Take runs that have changed; not all of them are for this reader."""


class Refresher:
    """Reads runs, trees and the list again once they are stale, and updates their readers.

    Args:
        read: calls a function that reads the database.
        on_found: called with a tail that knows its run's record now.

    Attributes:
        trees: the readers of each tree.
        lists: the readers of the list.
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
        self.trees: dict[uuid.UUID, set[TreeReader]] = {}
        self.lists: set[ListReader] = set()
        self._stale: dict[uuid.UUID, None] = {}
        self._stale_trees: set[uuid.UUID] = set()
        self._stale_in_list: dict[uuid.UUID, None] = {}
        self._listed: dict[uuid.UUID, Fingerprint] = {}
        self._work = asyncio.Event()

    @property
    def is_due(self) -> bool:
        """Whether something is known to be stale."""
        return bool(self._stale or self._stale_trees or self._stale_in_list or self._work.is_set())

    def cares_for(self, root: uuid.UUID) -> bool:
        """Tell whether a reader here follows the runs of a tree, or all. From any thread."""
        return bool(self.lists) or root in self.trees or root in self._tails

    def run_is_stale(self, run: uuid.UUID) -> None:
        """A followed run has changed."""
        self._stale[run] = None
        self._work.set()

    def tree_is_stale(self, root: uuid.UUID) -> None:
        """A tree may have a new run."""
        self._stale_trees.add(root)
        self._work.set()

    def run_has_changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        """A run is new, or its status or receipt has changed."""
        if run in self._tails:
            self.run_is_stale(run)
        if root in self.trees:
            self.tree_is_stale(root)
        if self.lists:
            self._stale_in_list[run] = None
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
                        await self._update(tail, snapshots.get(id))
            except BaseException:
                self._stale |= dict.fromkeys(ids)
                raise
        if self._stale_in_list:
            await self._refresh_lists()

    async def _update(self, tail: RunTail, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            tail.go()
            return
        if tail.snapshot is None:
            # A listener or the next poll finds what comes from now on; the rest is in the table.
            tail.start_at(max(tail.last_seq, snapshot.last_seq))
        else:
            await self._fill(tail, snapshot.last_seq)
        if not tail.take_activity() and not snapshot.is_over:
            tail.set_activity(snapshot.run["in_flight"], snapshot.run["usage"])
        is_first = tail.snapshot is None
        tail.show(snapshot)
        if is_first:
            self._on_found(tail)

    async def _fill(self, tail: RunTail, last_seq: int) -> None:
        """Read the events of which no message has come; very many are left in the table."""
        if last_seq <= tail.last_seq:
            return
        if last_seq - tail.last_seq > PAGE_COUNT:
            tail.start_at(last_seq)
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
            for reader in list(self.trees.get(root, ())):
                reader.grow(members)

    async def _refresh_lists(self) -> None:
        stale, self._stale_in_list = list(self._stale_in_list), {}
        for start in range(0, len(stale), MOST_AT_ONCE):
            some = stale[start : start + MOST_AT_ONCE]
            try:
                snapshots = await self._read(reading.read_snapshots, some)
            except BaseException:
                self._stale_in_list = dict.fromkeys(stale[start:]) | self._stale_in_list
                raise
            for reader in list(self.lists):
                reader.take(snapshots.values())

    # Polling, for what no message has told.

    async def poll(self) -> None:
        """Compare the followed runs with the table."""
        self._stale_trees |= self.trees.keys()
        if self._stale_trees:
            self._work.set()
        followed = [tail for tail in self._tails if not (tail.is_complete or tail.is_gone)]
        for start in range(0, len(followed), MOST_AT_ONCE):
            some = followed[start : start + MOST_AT_ONCE]
            found = await self._read(reading.fingerprints, [tail.id for tail in some])
            for tail in some:
                tail.take_activity()
                if _is_stale(tail, found.get(tail.id)):
                    self.run_is_stale(tail.id)
                tail.fingerprint = found.get(tail.id)

    async def poll_lists(self) -> None:
        """Compare the runs that are not over, and the young ones, with the table."""
        if not self.lists:
            self._listed.clear()
            return
        young = timezone.now() - timedelta(seconds=5 * LIST_POLL_SECONDS)
        found = await self._read(reading.active_runs, young, MOST_LISTED)
        stale = {id for id, fingerprint in found.items() if self._listed.get(id) != fingerprint}
        stale |= self._listed.keys() - found.keys()
        self._listed = found
        if stale:
            self._stale_in_list |= dict.fromkeys(stale)
            self._work.set()


def _is_stale(tail: RunTail, found: Fingerprint | None) -> bool:
    """Tell whether a poll has found what is not known of a run yet."""
    before = tail.fingerprint
    if found is None or before is None or found.receipt != before.receipt:
        return True
    if found.last_seq > tail.last_seq:
        return True
    if found.activity != before.activity and tail.is_elsewhere:
        return True
    # A worker that falls silent changes nothing in the record of a run that is to stop.
    return tail.snapshot is not None and tail.snapshot.run["stop"] is not None
