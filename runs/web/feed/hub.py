"""What all readers of a process share: who comes and goes, and whether each still may read.

What they are told comes from the tails (``tails``), which hear of news (``hearing``) and catch up
with the table (``catching_up``).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from runs.db.threads import DatabaseThreads
from runs.delivery import audience, notify
from runs.tasks import cancel_and_wait

from . import rights
from .catching_up import LIST_LOOK_SECONDS, CatchingUp, TreeFollower
from .hearing import Ear, Hearing
from .pages import LogPages
from .rights import RightLost, Viewer
from .tail import RunTail, Wakeable
from .tails import Tails
from .watching import Watching

if TYPE_CHECKING:
    from .listing import ListFollower

__all__ = ["Hub", "Watcher", "close_hub", "get_hub", "open_count"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LOOK_SECONDS = 0.5
RIGHTS_SECONDS = 3.0
MOST_FEEDS_PER_USER = 1_000
_THREADS = 2


class Watcher(Wakeable, Protocol):
    """A reader whose right is looked at again and again.

    Attributes:
        viewer: who it is.
        lost: set when the right is lost, or the process goes away.
    """

    viewer: Viewer
    lost: RightLost | None


class Hub:
    """What all readers of one event loop share. Made by ``get_hub``; used on that loop alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._database = DatabaseThreads(_THREADS)
        self._watchers: set[Watcher] = set()
        self._tails = Tails()
        self._pages = LogPages(lambda *work: self.read(*work))
        self._watching = Watching(self._tails)
        self._catching_up = CatchingUp(
            self._tails, lambda *work: self.read(*work), on_found=self._watching.begin
        )
        self._hearing = Hearing(self._tails, self._catching_up, self._watching)
        self._ear = Ear(self._hearing, self._tails, self._catching_up)
        self._tasks: list[asyncio.Task[None]] = []
        self.is_closed = False

    # Coming and going.

    async def join(self, watcher: Watcher) -> None:
        """Take on a reader.

        Raises:
            RightLost: this process goes away, or the user has too many feeds open.
        """
        if self.is_closed:
            raise RightLost("restart")
        mine = sum(1 for one in self._watchers if one.viewer.user_id == watcher.viewer.user_id)
        if mine >= MOST_FEEDS_PER_USER:
            raise RightLost("too_many")
        self._watchers.add(watcher)
        if not self._tasks:
            notify.add_listener(self._ear)
            self._tasks = [
                self._loop.create_task(self._forever(work, pause))
                for work, pause in (
                    (self._catching_up.refresh, 0.0),
                    (self._catching_up.look, LOOK_SECONDS),
                    (self._catching_up.look_at_lists, LIST_LOOK_SECONDS),
                    (self._look_at_rights, RIGHTS_SECONDS),
                    (self._hearing.listen, 0.0),
                    (self._watching.renew, audience.ASK_SECONDS),
                )
            ]

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def follow(self, id: uuid.UUID, follower: Wakeable) -> RunTail:
        """Return a run's tail, which wakes ``follower`` from now on."""
        tail = self._tails.get(id)
        if tail is None:
            tail = self._tails.open(id)
            self._catching_up.note(id)
        tail.followers.add(follower)
        return tail

    def unfollow(self, tail: RunTail, follower: Wakeable) -> None:
        tail.followers.discard(follower)
        if not tail.followers:
            self._tails.leave(tail, at_once=self.is_closed)

    def follow_tree(self, root: uuid.UUID, follower: TreeFollower) -> None:
        """Tell ``follower`` of all runs of a tree, now and whenever one is born."""
        self._catching_up.trees.setdefault(root, set()).add(follower)
        self._catching_up.note_tree(root)

    def unfollow_tree(self, root: uuid.UUID, follower: TreeFollower) -> None:
        trees = self._catching_up.trees
        followers = trees.get(root, set())
        followers.discard(follower)
        if not followers:
            trees.pop(root, None)

    def follow_list(self, follower: ListFollower) -> None:
        self._catching_up.lists.add(follower)

    def unfollow_list(self, follower: ListFollower) -> None:
        self._catching_up.lists.discard(follower)

    async def close(self) -> None:
        """Send everybody away, and end. May be repeated."""
        if self.is_closed:
            return
        self.is_closed = True
        notify.remove_listener(self._ear)
        for watcher in list(self._watchers):
            _dismiss(watcher, RightLost("restart"))
        await cancel_and_wait(self._tasks)
        await asyncio.gather(*self._pages.reading.values(), return_exceptions=True)
        self._watching.close()
        self._tails.close()
        await asyncio.to_thread(self._database.close)

    # Reading.

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that reads the database, in a thread of the hub's own.

        Raises:
            RightLost: this process goes away.
        """
        if self.is_closed:
            raise RightLost("restart")
        return await self._database.run(work, *args, **kwargs)

    async def events(self, tail: RunTail, after: int) -> list[str]:
        """Return some of a run's events behind ``after``, from the table, as JSON."""
        return await self._pages.events(tail, after)

    def look_at(self, tail: RunTail) -> None:
        """Read a run's record anew: it can't be as it is known here."""
        self._catching_up.note(tail.id)

    # What goes on all the time.

    async def _look_at_rights(self) -> None:
        if not self._watchers:
            return
        lost = await self.read(rights.find_lost, {one.viewer for one in self._watchers})
        for watcher in list(self._watchers):
            if watcher.viewer in lost:
                _dismiss(watcher, lost[watcher.viewer])

    async def _forever(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        failures = 0
        while True:
            try:
                await work()
                failures = 0
            except Exception as error:  # the database is away, say; readers wait meanwhile
                failures += 1
                if failures == 1:
                    logger.warning("the feed can't read (%s); trying again", type(error).__name__)
                self._catching_up.try_again()
            await asyncio.sleep(max(pause, min(2.0, 0.2 * failures)))


def _dismiss(watcher: Watcher, why: RightLost) -> None:
    watcher.lost = why
    watcher.wake()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def get_hub() -> Hub:
    """Return the hub of the running loop."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub()
    return hub


def open_count() -> int:
    """Return how many readers this process has. From any thread."""
    return sum(len(hub._watchers) for hub in list(_hubs.values()))


async def close_hub() -> None:
    """Close the hub of the running loop, if there is one; nobody may join it any more."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        await hub.close()
