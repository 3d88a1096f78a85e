"""What all readers of a process share: the tails, the updates, and a check of their rights."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from runs.db.threads import DatabaseThreads
from runs.db.transactions import is_away, patiently
from runs.delivery import notify
from runs.delivery.feeds import ASK_SECONDS
from runs.process.tasks import cancel_and_wait

from . import rights
from .frames import Frame, View
from .inbox import HubListener, Inbox
from .limits import NoPlace, Place, Unsent
from .reading import LogPages
from .refresh import LIST_POLL_SECONDS, Refresher
from .rights import RightLost, Viewer, Why
from .tail import RunTail, Tails
from .waiters import POLL_SECONDS as WAITERS_POLL_SECONDS
from .waiters import Waiter, Waiters

__all__ = ["Hub", "Reader", "close_hub", "get_hub", "open_count", "unsent_bytes", "waiting_count"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

POLL_SECONDS = 0.5
RIGHTS_SECONDS = 3.0
HEARTBEAT_SECONDS = 10.0
_THREADS = 2


class Hub:
    """What all readers of one event loop share. Made by ``get_hub``; used on that loop alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._database = DatabaseThreads(_THREADS)
        self._tasks: list[asyncio.Task[None]] = []
        self.readers: set[Reader] = set()
        self.tails = Tails()
        self.unsent = Unsent()
        self.waiters = Waiters(lambda *work: self.read(*work))
        self.refresher = Refresher(
            self.tails,
            lambda *work: self.read(*work),
            lambda tail: self.inbox.ask_for(tail),
            self.waiters,
        )
        self.listener = HubListener(self.tails, self.refresher)
        self.inbox = Inbox(self.tails, self.refresher)
        self.pages = LogPages(lambda *work: self.read_patiently(*work))
        self._closing: asyncio.Task[None] | None = None
        self._is_away = False  # the database; the log has a line about it

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more readers."""
        return self._closing is not None

    # Readers.

    async def join(self, reader: Reader) -> None:
        """Take on a reader.

        Raises:
            RightLost: this process ends, or the user has too many feeds open.
        """
        if self.is_closed:
            raise RightLost("restart")
        if reader.place is None and not reader.viewer.is_trusted:
            try:
                reader.place = Place("feeds", reader.viewer.user_id)
            except NoPlace as error:
                raise RightLost("too_many", str(error)) from error
        self.readers.add(reader)
        self._start()

    def leave(self, reader: Reader) -> None:
        self.readers.discard(reader)
        if reader.place is not None:
            reader.place.leave()

    async def until_over(self, viewer: Viewer, seconds: float | None) -> bool:
        """Wait for the end of a run, without a thread; return whether it is over.

        With None for ``seconds`` the wait lasts as long as the run.

        Raises:
            RightLost: the viewer may not see the run any longer, or this process ends.
        """
        if self.is_closed:
            raise RightLost("restart")
        waiter = Waiter(viewer)
        self.waiters.add(waiter)
        self._start()
        try:
            return await waiter.until_over(seconds)
        finally:
            self.waiters.discard(waiter)

    def _start(self) -> None:
        """Start the hub's own work, with the first reader or waiter."""
        if self._tasks:
            return
        notify.add_listener(self.listener)
        # In a context of their own: they outlive the request, or the agent, that comes first.
        self._tasks = [
            self._loop.create_task(self._forever(work, pause), context=contextvars.Context())
            for work, pause in (
                (self.refresher.refresh, 0.0),
                (self.refresher.poll, POLL_SECONDS),
                (self.refresher.poll_lists, LIST_POLL_SECONDS),
                (self.waiters.refresh, 0.0),
                (self.waiters.poll, WAITERS_POLL_SECONDS),
                (self._check_rights, RIGHTS_SECONDS),
                (self.inbox.receive, 0.0),
                (self.inbox.keep_asking, ASK_SECONDS),
                (self._close_with_the_loop, 0.0),
            )
        ]

    def follow(self, id: uuid.UUID, wake: Callable[[], None]) -> RunTail:
        """Return a run's tail, which calls ``wake`` from now on when it has something new."""
        tail = self.tails.get(id)
        if tail is None:
            tail = self.tails.open(id)
            self.refresher.run_is_stale(id)
        tail.wakers.add(wake)
        return tail

    def unfollow(self, tail: RunTail, wake: Callable[[], None]) -> None:
        tail.wakers.discard(wake)
        if not tail.wakers:
            self.tails.leave(tail, at_once=self.is_closed)

    async def close(self) -> None:
        """Disconnect all readers, and end. A repeated call waits for the end of the first one."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        notify.remove_listener(self.listener)
        self.let_waiters_go()
        for reader in list(self.readers):
            _dismiss(reader, RightLost("restart"))
        await cancel_and_wait(self._tasks)
        await asyncio.gather(*self.pages.reading.values(), return_exceptions=True)
        for tail in self.tails:
            tail.close()
        await asyncio.to_thread(self._database.close)

    async def _close_with_the_loop(self) -> None:
        """Release everything when the loop ends: ``asyncio.run`` cancels its tasks then.

        A command, or a task of Celery, has a loop for a moment, and no lifespan that calls
        ``close``.
        """
        try:
            await asyncio.Event().wait()
        finally:
            if not self.is_closed:
                notify.remove_listener(self.listener)
                _hubs.pop(self._loop, None)
                # Again: one of them may have lost the cancellation of the loop's end.
                me = asyncio.current_task()
                await cancel_and_wait(task for task in self._tasks if task is not me)
                await asyncio.to_thread(self._database.close)

    def let_waiters_go(self) -> None:
        """End all waits: this process drains."""
        for waiter in list(self.waiters):
            _dismiss(waiter, RightLost("restart"))

    # Reading.

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that reads the database, in a thread of the hub's own.

        The log has one line about an outage, however many readers there are.

        Raises:
            RightLost: this process ends.
        """
        if self.is_closed:
            raise RightLost("restart")
        try:
            answer = await self._database.run(work, *args, **kwargs)
        except Exception as error:
            if is_away(error) and not self._is_away:
                self._is_away = True
                logger.warning("the feed can't read (%s); trying again", type(error).__name__)
            raise
        self._is_away = False
        return answer

    async def read_patiently(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read, again while the database is away: an outage of seconds ends no feed.

        Raises:
            RightLost: this process ends.
            django.db.Error: the database was away for a minute, or refused the query.
        """
        ask = partial(self.read, work, *args, **kwargs)
        return await patiently(ask, before_retry=lambda: None)

    # Background work.

    async def _check_rights(self) -> None:
        watching = [*self.readers, *self.waiters]
        viewers = {one.viewer for one in watching if not one.viewer.is_trusted}
        if not viewers:
            return
        lost = await self.read(rights.find_lost, viewers)
        for one in watching:
            if one.viewer in lost:
                _dismiss(one, lost[one.viewer])

    async def _forever(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        failures = 0
        while True:
            try:
                await work()
                failures = 0
            except Exception as error:  # the database is away, say; readers wait meanwhile
                failures += 1
                if failures == 1 and not is_away(error):
                    logger.warning("the feed can't read (%s); trying again", type(error).__name__)
            await asyncio.sleep(max(pause, min(2.0, 0.2 * failures)))


def _dismiss(one: Reader | Waiter, why: RightLost) -> None:
    one.lost = why
    one.wake()


class Reader:
    """A reader of a feed, to be subclassed for each kind of feed.

    Attributes:
        viewer: the user who reads.
        lost: set when the right is lost, or the process ends.
        is_over: set when nothing follows the frames that ``collect`` returns.
        place: the user's place that it takes, and gives back at its end.
        interrupt: set by what sends a batch, for as long as it does: breaks that off.
    """

    interrupt: Callable[[], object] | None = None

    def __init__(self, hub: Hub, viewer: Viewer, view: View, *, place: Place | None = None) -> None:
        self.hub = hub
        self.viewer = viewer
        self.view = view
        self.place = place
        self.lost: RightLost | None = None
        self.is_over = False
        self._updates = asyncio.Event()

    @property
    def cursor(self) -> str:
        """The position after the frames that were yielded."""
        return ""

    def wake(self) -> None:
        self._updates.set()

    def close_for(self, why: Why) -> None:
        """End the feed now, though its client has not read what it is being sent."""
        self.lost = RightLost(why)
        self.wake()
        if self.interrupt is not None:
            self.interrupt()

    async def batches(self) -> AsyncGenerator[list[Frame], None]:
        """Yield the frames to send, as they come; an empty list is a heartbeat.

        A caller that leaves before the end closes it (``aclosing``).

        Raises:
            RightLost: the reader may not continue, the run was deleted, or this process ends.
        """
        loop = asyncio.get_running_loop()
        await self.hub.join(self)
        quiet_since = loop.time()
        try:
            await self.start()
            while not self.is_over:
                self._updates.clear()
                if self.lost is not None:
                    raise self.lost
                frames = await self.collect()
                if not frames:
                    with contextlib.suppress(TimeoutError):  # a heartbeat is due
                        async with asyncio.timeout_at(quiet_since + HEARTBEAT_SECONDS):
                            await self._updates.wait()
                            continue
                with self.hub.unsent.sending(self, frames):
                    yield frames
                quiet_since = loop.time()
        finally:
            self.stop()
            self.hub.leave(self)

    async def start(self) -> None:
        """Have the hub bring updates from now on."""
        raise NotImplementedError

    def stop(self) -> None:
        """Have the hub bring no more; called even if ``start`` has failed."""
        raise NotImplementedError

    async def collect(self) -> list[Frame]:
        """Return the next frames, no more than one batch."""
        raise NotImplementedError


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
    return sum(len(hub.readers) for hub in list(_hubs.values()))


def waiting_count() -> int:
    """Return how many requests of this process wait for the end of a run. From any thread."""
    return sum(len(hub.waiters) for hub in list(_hubs.values()))


def unsent_bytes() -> int:
    """Return how many bytes the readers of this process have not read. From any thread."""
    return sum(hub.unsent.total_bytes for hub in list(_hubs.values()))


async def close_hub() -> None:
    """Close the hub of the running loop, if there is one; it takes no more readers."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        await hub.close()
