"""A reader of the list of runs: gets each run that it may see, when the run changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from . import reading
from .frames import Frame, View
from .hub import Hub, Reader
from .reading import Snapshot
from .rights import Viewer

__all__ = ["ListFollower"]

MOST_PENDING = 1_000  # runs that wait for a slow reader
MOST_OVER = 5_000  # ids that are remembered of runs whose end was sent


class ListFollower(Reader):
    """Sends runs as they are created, change status or receipt, and end.

    First come those that are not over. Nothing is replayed: a reader that reconnects, or gets
    ``reset`` because it read too slowly, reads the list again. Runs come as in other lists, without
    the large fields.
    """

    def __init__(self, hub: Hub, viewer: Viewer, *, view: View) -> None:
        super().__init__(hub, viewer, view)
        self._pending: dict[uuid.UUID, Snapshot] = {}
        self._sent: dict[uuid.UUID, Snapshot] = {}
        self._over: dict[uuid.UUID, None] = {}
        self._is_reset = False

    async def start(self) -> None:
        self.hub.refresher.lists.add(self.take)
        first = await self.hub.read_patiently(reading.read_active, self.viewer, MOST_PENDING)
        # The hub may have brought newer ones meanwhile.
        self.take(snapshot for snapshot in first if snapshot.id not in self._pending)

    def stop(self) -> None:
        self.hub.refresher.lists.discard(self.take)

    def take(self, snapshots: Iterable[Snapshot]) -> None:
        """Take runs that have changed; leave out those that the reader may not see."""
        for snapshot in snapshots:
            if not self.viewer.includes(snapshot.owner_id):
                continue
            if snapshot.id in self._over:
                continue
            if snapshot.says_the_same_as(self._sent.get(snapshot.id)):
                continue
            self._pending.pop(snapshot.id, None)
            self._pending[snapshot.id] = snapshot
        if len(self._pending) > MOST_PENDING:
            self._pending.clear()
            self._is_reset = True
        if self._pending or self._is_reset:
            self.wake()

    async def collect(self) -> list[Frame]:
        frames = [Frame("reset", "")] if self._is_reset else []
        self._is_reset = False
        pending, self._pending = self._pending, {}
        for snapshot in pending.values():
            self._remember(snapshot)
        return frames + [one.list_frame(self.view) for one in pending.values()]

    def _remember(self, snapshot: Snapshot) -> None:
        """Remember what was sent, to send it once; of runs that are over, only the id."""
        if not snapshot.is_over:
            self._sent[snapshot.id] = snapshot
            return
        self._sent.pop(snapshot.id, None)
        self._over[snapshot.id] = None
        if len(self._over) > MOST_OVER:
            del self._over[next(iter(self._over))]
