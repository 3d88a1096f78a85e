"""One reader of a run, or of a tree of runs: its positions, and the frames that it gets next."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from . import reading
from .cursor import Cursor
from .frames import Batch, Frame, View
from .hub import Hub
from .reading import PAGE_COUNT
from .rights import RightLost, Viewer
from .tail import RunTail

__all__ = ["HEARTBEAT_SECONDS", "STUCK_SECONDS", "Follower", "RunIsGone"]

HEARTBEAT_SECONDS = 10.0
STUCK_SECONDS = 60.0  # a reader that doesn't take a batch in so long is let go
MOST_CHARACTERS = 400_000  # in one batch: all that a reader who doesn't read makes us hold
_LOST_TRACK_SECONDS = 0.2


class RunIsGone(Exception):
    """The run was deleted."""


@dataclass(slots=True, eq=False)
class _Position:
    """How far the reader has come with one run."""

    tail: RunTail
    seq: int
    version: int = 0
    activity: int = 0
    texts: int = -1  # nothing yet: what was said so far comes first

    @property
    def is_at_the_end(self) -> bool:
        return self.tail.is_complete and self.seq >= self.tail.last_seq

    @property
    def is_told(self) -> bool:
        """Whether there is nothing left to say of this run, that it is over included."""
        return self.tail.is_gone or (self.is_at_the_end and self.version == self.tail.version)


class Follower:
    """Follows one run; with ``is_tree``, all runs below it too.

    Each event of each run comes exactly once, in order of ``seq``, from the cursor on, whatever is
    lost between processes. Snapshots, what is in flight and streamed text come as they are now:
    what was overtaken meanwhile is left out.
    """

    def __init__(
        self, hub: Hub, viewer: Viewer, cursor: Cursor, *, is_tree: bool = False, view: View
    ) -> None:
        assert viewer.run is not None
        self.viewer = viewer
        self.lost: RightLost | None = None
        self._hub = hub
        self._run = viewer.run
        self._cursor = cursor
        self._is_tree = is_tree
        self._view = view
        self._root: uuid.UUID | None = None
        self._news = asyncio.Event()
        self._positions: dict[uuid.UUID, _Position] = {}
        self._tree_is_final = False
        self._quiet_since = 0.0

    def wake(self) -> None:
        self._news.set()

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Give what there is to send, as it comes; an empty batch is a heartbeat.

        Ends behind the ``end`` frame. To be closed (``aclosing``) by whoever leaves before.

        Raises:
            RightLost: the reader may not go on, or this process goes away.
            RunIsGone: the run was deleted.
        """
        await self._hub.join(self)
        self._quiet_since = asyncio.get_running_loop().time()
        try:
            self._add(self._run)
            while True:
                self._news.clear()
                self._check()
                frames = await self._collect()
                if await self._is_over():
                    frames.append(self._positions[self._run].tail.run_frame("end", self._view))
                    yield self._batch(frames)
                    return
                if frames or not await self._wait():
                    yield self._batch(frames)
                    self._quiet_since = asyncio.get_running_loop().time()
        finally:
            self._leave()

    def grow(self, members: dict[uuid.UUID, uuid.UUID | None]) -> None:
        """Learn of all runs of the tree; those below the one that is followed are followed, too."""
        below = {self._run}
        for id, parent in members.items():  # callers come before those whom they call
            if parent in below:
                below.add(id)
                self._add(id)

    def _add(self, id: uuid.UUID) -> None:
        if id not in self._positions:
            tail = self._hub.follow(id, self)
            self._positions[id] = _Position(tail, self._cursor.seen(id))
            self.wake()

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost
        if self._positions[self._run].tail.is_gone:
            raise RunIsGone

    async def _wait(self) -> bool:
        """Wait for news; False when it is time for a sign of life."""
        try:
            async with asyncio.timeout_at(self._quiet_since + HEARTBEAT_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _collect(self) -> list[Frame]:
        """Return what there is to send next, of all runs together no more than one batch."""
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
        frames: list[Frame] = []  # not a generator: each step of an async one costs a microsecond
        if position.version == 0:
            if not self._view.is_page and tail.input_json is None:
                found = await self._hub.read(reading.read_inputs, [tail.id])
                tail.input_json = found.get(tail.id)
            if self._is_tree and tail.id == self._run:
                self._join_tree(tail)
            position.version, position.activity = tail.version, tail.activity_version
            frames.append(tail.run_frame("run", self._view))
        frames += self._texts(position)
        for event in _within(await self._events(position), room):
            position.seq += 1
            # A page gets one for the whole batch: of a large tree it is long.
            cursor = "" if self._view.is_page else self._cursor_now()
            frames.append(Frame("trace", event, "", cursor, self._is_tree))
        frames += self._state(position)
        return frames

    def _state(self, position: _Position) -> Iterator[Frame]:
        """Give what has changed beside the log.

        That a run is over is told behind the last event of its log, and at once otherwise.
        """
        tail = position.tail
        assert tail.snapshot is not None
        if position.version != tail.version and (
            not tail.snapshot.is_over or position.is_at_the_end
        ):
            position.version, position.activity = tail.version, tail.activity_version
            yield tail.run_frame("run", self._view)
        if tail.snapshot.is_over:
            return
        if position.activity != tail.activity_version:
            position.activity = tail.activity_version
            yield tail.activity_frame(self._view)

    def _texts(self, position: _Position) -> list[Frame]:
        """Return what models have said meanwhile: before the events of their calls."""
        tail, told = position.tail, position.texts
        position.texts = tail.texts.count
        return tail.texts.so_far() if told < 0 else tail.texts.behind(told)

    async def _events(self, position: _Position) -> list[str]:
        tail = position.tail
        if position.seq >= tail.last_seq:
            return []
        found = tail.behind(position.seq, PAGE_COUNT)
        if found is None:
            found = await self._hub.events(tail, position.seq)
            if not found and tail.snapshot is not None and not tail.snapshot.has_log:
                position.seq = tail.last_seq
            elif not found:  # it has just been removed, or lost with a database: no reason to spin
                self._hub.look_at(tail)
                await asyncio.sleep(_LOST_TRACK_SECONDS)
        return found

    async def _is_over(self) -> bool:
        """Tell whether everything was sent of the run, and of all below it."""
        if not self._positions[self._run].is_at_the_end:
            return False
        if not self._is_tree:
            return True
        while all(position.is_told for position in self._below()):
            if self._tree_is_final:
                return True
            # All that are known are over: whoever is not in the table by now is never born.
            assert self._root is not None
            known = len(self._positions)
            self.grow((await self._hub.read(reading.read_trees, [self._root]))[self._root])
            self._tree_is_final = known == len(self._positions)
        return False

    def _below(self) -> Iterator[_Position]:
        return (position for id, position in self._positions.items() if id != self._run)

    def _join_tree(self, tail: RunTail) -> None:
        assert tail.snapshot is not None
        self._root = tail.snapshot.root
        self._hub.follow_tree(self._root, self)

    def _batch(self, frames: list[Frame]) -> Batch:
        return Batch(frames, self._cursor_now())

    def _cursor_now(self) -> str:
        if not self._is_tree:
            return str(self._positions[self._run].seq)
        return self._cursor.advanced({id: one.seq for id, one in self._positions.items()})

    def _leave(self) -> None:
        self._hub.leave(self)
        if self._root is not None:
            self._hub.unfollow_tree(self._root, self)
        for position in self._positions.values():
            self._hub.unfollow(position.tail, self)


def _within(events: list[str], room: int) -> Iterator[str]:
    """Give events until there are ``room`` characters of them; one at least."""
    for event in events:
        yield event
        room -= len(event)
        if room <= 0:
            return
