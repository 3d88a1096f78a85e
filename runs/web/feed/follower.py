"""One reader of a run, or of a tree of runs: its positions, and the frames that it gets next."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import reading
from .cursor import Cursor
from .frames import Frame, FrameType, View
from .hub import Hub, Reader
from .limits import Place
from .reading import PAGE_COUNT
from .rights import RightLost, Viewer
from .tail import RunTail

__all__ = ["STUCK_SECONDS", "Follower"]

STUCK_SECONDS = 60.0  # a reader that takes longer for a batch is disconnected
MOST_CHARACTERS = 64 * 1024  # in one batch: no more is held for a slow reader
_LOST_TRACK_SECONDS = 0.2


@dataclass(slots=True, eq=False)
class _Position:
    """How far the reader has come in one run."""

    tail: RunTail
    seq: int
    version: int = 0
    activity: int = 0
    texts: int = -1  # nothing yet: the answers in progress come first

    @property
    def is_at_the_end(self) -> bool:
        return self.tail.is_complete and self.seq >= self.tail.last_seq

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to send of this run, its end included."""
        return self.tail.is_gone or (self.is_at_the_end and self.version == self.tail.version)


class Follower(Reader):
    """Follows one run; with ``is_tree``, all runs below it too.

    Each event of each run comes exactly once, in order of ``seq``, from the cursor on, even if
    messages between processes are lost. Snapshots, calls in flight and streamed text come as they
    are now; older states are left out. The first snapshot of a run and the end have everything;
    those in between leave out an input that is large.
    """

    def __init__(
        self,
        hub: Hub,
        viewer: Viewer,
        cursor: Cursor,
        *,
        is_tree: bool = False,
        view: View,
        place: Place | None = None,
    ) -> None:
        assert viewer.run is not None
        super().__init__(hub, viewer, view, place=place)
        self._run = viewer.run
        self._start = cursor
        self._is_tree = is_tree
        self._root: uuid.UUID | None = None
        self._positions: dict[uuid.UUID, _Position] = {}
        self._tree_is_final = False

    async def start(self) -> None:
        self._add(self._run)

    def stop(self) -> None:
        if self._root is not None:
            self.hub.refresher.unfollow_tree(self._root, self.grow)
        for position in self._positions.values():
            self.hub.unfollow(position.tail, self.wake)

    async def collect(self) -> list[Frame]:
        tail = self._positions[self._run].tail
        if tail.is_gone:
            raise RightLost("gone")
        frames = await self._of_all()
        if await self._is_all_sent():
            self.is_over = True
            frame, _, _ = await self._whole("end", tail)
            frames.append(frame)
        return frames

    @property
    def cursor(self) -> str:
        if not self._is_tree:
            return str(self._positions[self._run].seq)
        return self._start.advanced({id: one.seq for id, one in self._positions.items()})

    def grow(self, members: dict[uuid.UUID, uuid.UUID | None]) -> None:
        """Take all runs of the tree, and follow those below the followed one."""
        below = {self._run}
        for id, parent in members.items():  # callers come before their calls
            if parent in below:
                below.add(id)
                self._add(id)

    def _add(self, id: uuid.UUID) -> None:
        if id not in self._positions:
            tail = self.hub.follow(id, self.wake)
            self._positions[id] = _Position(tail, self._start.seen(id))
            self.wake()

    async def _of_all(self) -> list[Frame]:
        """Return the next frames of all runs, no more than one batch."""
        frames: list[Frame] = []
        room = MOST_CHARACTERS
        for position in list(self._positions.values()):
            if room <= 0:
                break
            if position.tail.snapshot is None:
                continue  # it is being read
            found = await self._of_run(position, room)
            room -= sum(len(frame.data) for frame in found)
            frames += found
        return frames

    async def _of_run(self, position: _Position, room: int) -> list[Frame]:
        tail = position.tail
        frames: list[Frame] = []  # each step of an async generator would cost a microsecond
        if position.version == 0:
            frame, version, activity = await self._whole("run", tail)
            if self._is_tree and tail.id == self._run:
                assert tail.snapshot is not None
                self._root = tail.snapshot.root
                self.hub.refresher.follow_tree(self._root, self.grow)
            position.version, position.activity = version, activity
            frames.append(frame)
            room -= len(frame.data)
            if room <= 0:
                return frames
        # Streamed text comes before the events of its calls.
        sent, position.texts = position.texts, tail.texts.count
        frames += tail.texts.so_far() if sent < 0 else tail.texts.after(sent)
        for event in await self._events(position):
            position.seq += 1
            # A page gets one cursor for the whole batch: that of a large tree is long.
            cursor = "" if self.view.is_page else self.cursor
            frames.append(Frame("trace", event, "", cursor, self._is_tree))
            room -= len(event)
            if room <= 0:
                break
        frames += self._state(position)
        return frames

    async def _whole(self, type: FrameType, tail: RunTail) -> tuple[Frame, int, int]:
        return await tail.whole_frame(
            type, self.view, lambda: self.hub.read_patiently(reading.read_input, tail.id)
        )

    def _state(self, position: _Position) -> Iterator[Frame]:
        """Yield what has changed apart from the log; the end of a run after its last event."""
        tail = position.tail
        assert tail.snapshot is not None
        if position.version != tail.version and (
            not tail.snapshot.is_over or position.is_at_the_end
        ):
            position.version, position.activity = tail.version, tail.activity_version
            yield tail.run_frame("run", self.view)
        if tail.snapshot.is_over:
            return
        if position.activity != tail.activity_version:
            position.activity = tail.activity_version
            yield tail.activity_frame(self.view)

    async def _events(self, position: _Position) -> Sequence[str]:
        tail = position.tail
        if position.seq >= tail.last_seq:
            return []
        found: Sequence[str] | None = tail.after(position.seq, PAGE_COUNT)
        if found is None:
            found = await self.hub.pages.events(tail.id, position.seq, tail.last_seq)
            if not found and tail.snapshot is not None and tail.snapshot.run["log_removed_at"]:
                position.seq = tail.last_seq
            elif not found:  # the log has just been removed, or the database was restored
                self.hub.refresher.run_is_stale(tail.id)
                await asyncio.sleep(_LOST_TRACK_SECONDS)
        return found

    async def _is_all_sent(self) -> bool:
        """Tell whether all frames were sent of the run, and of all runs below it."""
        if not self._positions[self._run].is_at_the_end:
            return False
        if not self._is_tree:
            return True
        while all(one.is_done for id, one in self._positions.items() if id != self._run):
            if self._tree_is_final:
                return True
            # All known runs are over: one that is not in the table by now will never be started.
            assert self._root is not None
            known = len(self._positions)
            self.grow((await self.hub.read_patiently(reading.read_trees, [self._root]))[self._root])
            self._tree_is_final = known == len(self._positions)
        return False
