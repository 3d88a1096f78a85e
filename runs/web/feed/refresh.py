"""Reads again what is stale of what a hub knows: after a message, or because polling finds it.

Twice a second the hub compares what it knows of each followed run with the table, so a lost message
costs half a second and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from django.utils import timezone

from . import reading
from .reading import PAGE_COUNT, Fingerprint, Snapshot
from .tail import RunTail, Tails, model_call
from .waiters import Waiters

__all__ = ["LIST_POLL_SECONDS", "Refresher"]

LIST_POLL_SECONDS = 1.0
MOST_AT_ONCE = 200  # runs in one query
MOST_LISTED = 5_000

#: Takes all runs of a tree, each with its caller.
Grow = Callable[[dict[uuid.UUID, uuid.UUID | None]], None]
#: Takes runs that have changed; not all of them are for this reader.
Take = Callable[[Iterable[Snapshot]], None]
_Stale = dict[uuid.UUID, None]  # a set in order


class Refresher:
    """Reads runs, trees and the list again once they are stale, and updates their readers.

    Args:
        read: calls a function that reads the database.
        on_found: called with a tail when its run's record was read for the first time.
        waiters: are told of runs that have changed, too.

    Attributes:
        trees: the readers of each tree.
        lists: the readers of the list.
    """

    def __init__(
        self,
        tails: Tails,
        read: Callable[..., Awaitable[Any]],
        on_found: Callable[[RunTail], None],
        waiters: Waiters,
    ) -> None:
        self._tails = tails
        self._read = read
        self._on_found = on_found
        self._waiters = waiters
        self.trees: dict[uuid.UUID, set[Grow]] = {}
        self.lists: set[Take] = set()
        self._stale: _Stale = {}
        self._stale_trees: _Stale = {}
        self._stale_in_list: _Stale = {}
        self._listed: dict[uuid.UUID, Fingerprint] = {}
        self._work = asyncio.Event()

    @property
    def is_due(self) -> bool:
        """Whether something is known to be stale."""
        return bool(self._stale or self._stale_trees or self._stale_in_list or self._work.is_set())

    def follow_tree(self, root: uuid.UUID, grow: Grow) -> None:
        """Call ``grow`` with all runs of a tree, now and whenever there is a new one."""
        self.trees.setdefault(root, set()).add(grow)
        self._mark(self._stale_trees, [root])

    def unfollow_tree(self, root: uuid.UUID, grow: Grow) -> None:
        self.trees[root].discard(grow)
        if not self.trees[root]:
            del self.trees[root]

    def is_followed(self, run: uuid.UUID, root: uuid.UUID) -> bool:
        """Tell whether a reader here follows a run, its tree, or the list, or waits for the run.

        From any thread.
        """
        if self.lists or run in self._tails or run in self._waiters:
            return True
        return root in self.trees

    def run_is_stale(self, run: uuid.UUID) -> None:
        """Read a followed run again."""
        self._mark(self._stale, [run])

    def run_has_changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        """Read again what a run belongs to that is new, or has another status or receipt."""
        self._waiters.run_has_changed(run)
        if run in self._tails:
            self._mark(self._stale, [run])
        if root in self.trees:
            self._mark(self._stale_trees, [root])
        if self.lists:
            self._mark(self._stale_in_list, [run])

    def _mark(self, stale: _Stale, ids: Iterable[uuid.UUID]) -> None:
        stale |= dict.fromkeys(ids)
        if stale:
            self._work.set()

    # Reading.

    async def refresh(self) -> None:
        """Wait until something is stale, and read it: one query of each kind."""
        await self._work.wait()
        self._work.clear()
        with self._some(self._stale_trees) as roots:
            if followed := self.trees.keys() & roots:
                trees = await self._read(reading.read_trees, followed)
                for root, members in trees.items():
                    for grow in list(self.trees.get(root, ())):
                        grow(members)
        with self._some(self._stale) as ids:
            ids = [id for id in ids if id in self._tails]
            snapshots = await self._read(reading.read_snapshots, ids) if ids else {}
            for id in ids:
                if tail := self._tails.get(id):
                    await self._update(tail, snapshots.get(id))
        with self._some(self._stale_in_list) as ids:
            snapshots = await self._read(reading.read_listed, ids) if ids else {}
            for take in list(self.lists):
                take(snapshots.values())
        if self._stale_trees or self._stale or self._stale_in_list:
            self._work.set()

    async def _update(self, tail: RunTail, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            tail.go()
            return
        if tail.snapshot is None:
            # A listener or the next poll finds the events from now on; the rest is in the table.
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
        """Read the events that no message has brought; leave very many in the table."""
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

    @contextlib.contextmanager
    def _some(self, stale: _Stale) -> Iterator[list[uuid.UUID]]:
        """Take out what one query may read; put it back if that fails."""
        some = list(stale)[:MOST_AT_ONCE]
        for id in some:
            del stale[id]
        try:
            yield some
        except BaseException:
            self._mark(stale, some)
            raise

    # Polling: a message may be lost.

    async def poll(self) -> None:
        """Compare the followed runs with the table."""
        self._mark(self._stale_trees, self.trees)
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
        self._mark(self._stale_in_list, stale)


def _is_stale(tail: RunTail, found: Fingerprint | None) -> bool:
    """Tell whether a poll has found something new of a run."""
    before = tail.fingerprint
    if found is None or before is None or found.receipt != before.receipt:
        return True
    if found.last_seq > tail.last_seq:
        return True
    if found.activity != before.activity and tail.is_elsewhere:
        return True
    # A worker that gives no sign of life changes nothing in the record of a stopping run.
    return tail.snapshot is not None and tail.snapshot.run["stop"] is not None
