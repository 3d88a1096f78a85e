"""One reader of the list of runs: those that the reader may see, whenever something changes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable

from . import reading
from .follower import HEARTBEAT_SECONDS
from .frames import Batch, Frame, View, to_json
from .hub import Hub
from .reading import Snapshot
from .rights import RightLost, Viewer

__all__ = ["ListFollower"]

MOST_PENDING = 1_000  # runs that wait for a slow reader
MOST_OVER = 5_000  # ids that are remembered of runs whose end was sent


class ListFollower:
    """Sends runs as they are created, change status or receipt, and end.

    First come those that are not over. Nothing is replayed: a reader that reconnects, or gets
    ``reset`` because it read too slowly, reads the list again.
    """

    def __init__(self, hub: Hub, viewer: Viewer, *, view: View) -> None:
        self.viewer = viewer
        self.lost: RightLost | None = None
        self._hub = hub
        self._view = view
        self._updates = asyncio.Event()
        self._pending: dict[uuid.UUID, Snapshot] = {}
        self._sent: dict[uuid.UUID, Snapshot] = {}
        self._over: dict[uuid.UUID, None] = {}
        self._is_reset = False

    def wake(self) -> None:
        self._updates.set()

    def take(self, snapshots: Iterable[Snapshot]) -> None:
        """Take runs that have changed; those that the reader may not see are left out."""
        for snapshot in snapshots:
            if not (self.viewer.sees_all or snapshot.owner_id == self.viewer.user_id):
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

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield what there is to send, as it comes; an empty batch is a heartbeat.

        Raises:
            RightLost: the reader may not go on, or this process goes away.
        """
        await self._hub.join(self)
        self._hub.follow_list(self)
        try:
            await self._start()
            while True:
                self._updates.clear()
                if self.lost is not None:
                    raise self.lost
                frames = await self._collect()
                if frames or not await self._wait():
                    yield Batch(frames)
        finally:
            self._hub.unfollow_list(self)
            self._hub.leave(self)

    async def _start(self) -> None:
        """Take the runs that are not over; those that the hub has brought meanwhile are newer."""
        first = await self._hub.read(reading.read_active, self.viewer, MOST_PENDING)
        self.take(snapshot for snapshot in first if snapshot.id not in self._pending)

    async def _wait(self) -> bool:
        """Wait for updates; False when a heartbeat is due."""
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._updates.wait()
        except TimeoutError:
            return False
        return True

    async def _collect(self) -> list[Frame]:
        frames = [Frame("reset", "")] if self._is_reset else []
        self._is_reset = False
        pending, self._pending = self._pending, {}
        for snapshot in pending.values():  # before the await: the hub may bring it again
            self._remember(snapshot)
        inputs: dict[uuid.UUID, str] = {}
        if pending and not self._view.is_page:
            inputs = await self._hub.read(reading.read_inputs, list(pending))
        return frames + [self._frame(one, inputs.get(one.id)) for one in pending.values()]

    def _remember(self, snapshot: Snapshot) -> None:
        """Remember what was sent, so as not to repeat it; of runs that are over, only the id."""
        if not snapshot.is_over:
            self._sent[snapshot.id] = snapshot
            return
        self._sent.pop(snapshot.id, None)
        self._over[snapshot.id] = None
        if len(self._over) > MOST_OVER:
            del self._over[next(iter(self._over))]

    def _frame(self, snapshot: Snapshot, input_json: str | None) -> Frame:
        if self._view.is_page:
            return Frame("run", to_json(snapshot.run), to_json(snapshot.words(self._view.zone)))
        data = to_json(snapshot.run)
        return Frame("run", f'{{"input":{input_json},{data[1:]}' if input_json else data)
