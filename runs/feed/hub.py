"""The tails of this process: hears of news, and looks for what nobody told it of.

News come from the runs of this process directly (``live``), and by message from other processes.
Neither is relied on: twice a second the hub compares what it knows of each watched run with the
table, so a lost message costs half a second and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer
from django.utils import timezone

from agents.trace import CallInfo, Event

from .. import active, live, relay
from ..database import DatabaseThreads
from . import reading, rights
from .reading import PAGE_COUNT, Fingerprint, Snapshot
from .rights import RightLost, Viewer
from .tail import RunTail, Wakeable, encode_event

if TYPE_CHECKING:
    from .listing import ListFollower

__all__ = ["Hub", "Watcher", "close_hub", "get_hub"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LOOK_SECONDS = 0.5
RIGHTS_SECONDS = 3.0
LIST_LOOK_SECONDS = 1.0
LINGER_SECONDS = 30.0  # a page that is loaded again finds what a model has said so far
MOST_AT_ONCE = 200  # runs in one query
MOST_PAGES_CHARACTERS = 16_000_000  # of log pages kept, of all runs together
MOST_LISTED = 5_000
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
    """What all readers of one event loop share. Made by ``get_hub``; used on that loop alone.

    The three methods of ``live.Listener`` may be called from any thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._database = DatabaseThreads(_THREADS)
        self._tails: dict[uuid.UUID, RunTail] = {}
        self._names: dict[str, uuid.UUID] = {}  # of the tails, as events have them
        self._trees: dict[uuid.UUID, set[TreeFollower]] = {}
        self._lists: set[ListFollower] = set()
        self._watchers: set[Watcher] = set()
        self._stale: dict[uuid.UUID, None] = {}
        self._stale_trees: set[uuid.UUID] = set()
        self._listed: dict[uuid.UUID, Fingerprint] = {}
        self._list_news: dict[uuid.UUID, None] = {}
        self._work = asyncio.Event()
        self._pages: OrderedDict[tuple[uuid.UUID, int], list[str]] = OrderedDict()
        self._pages_characters = 0
        self._reading: dict[tuple[uuid.UUID, int, int], asyncio.Task[list[str]]] = {}
        self._ear = _Ear(self)
        self._process = relay.PROCESS  # whose news the ear hears
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
            live.add_listener(self._ear)
            self._tasks = [
                self._loop.create_task(self._forever(work, pause))
                for work, pause in (
                    (self._refresh, 0.0),
                    (self._look, LOOK_SECONDS),
                    (self._look_at_lists, LIST_LOOK_SECONDS),
                    (self._look_at_rights, RIGHTS_SECONDS),
                    (self._listen, 0.0),
                )
            ]

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def follow(self, id: uuid.UUID, follower: Wakeable) -> RunTail:
        """Return a run's tail, which wakes ``follower`` from now on."""
        tail = self._tails.get(id)
        if tail is None:
            tail = self._tails[id] = RunTail(id)
            self._names[str(id)] = id
            self._take_activity(tail)
            self._take_texts(tail)
            self._note(id)
        tail.followers.add(follower)
        return tail

    def unfollow(self, tail: RunTail, follower: Wakeable) -> None:
        tail.followers.discard(follower)
        if tail.followers:
            return
        if tail.is_complete or tail.is_gone or tail.snapshot is None or self.is_closed:
            self._forget(tail)
        else:
            self._loop.call_later(LINGER_SECONDS, self._forget_if_alone, tail)

    def follow_tree(self, root: uuid.UUID, follower: TreeFollower) -> None:
        """Tell ``follower`` of all runs of a tree, now and whenever one is born."""
        self._trees.setdefault(root, set()).add(follower)
        self._note_tree(root)

    def unfollow_tree(self, root: uuid.UUID, follower: TreeFollower) -> None:
        followers = self._trees.get(root, set())
        followers.discard(follower)
        if not followers:
            self._trees.pop(root, None)

    def follow_list(self, follower: ListFollower) -> None:
        self._lists.add(follower)

    def unfollow_list(self, follower: ListFollower) -> None:
        self._lists.discard(follower)
        if not self._lists:
            self._listed.clear()

    async def close(self) -> None:
        """Send everybody away, and end. May be repeated."""
        if self.is_closed:
            return
        self.is_closed = True
        live.remove_listener(self._ear)
        for watcher in list(self._watchers):
            self._dismiss(watcher, RightLost("restart"))
        for task in self._tasks:
            task.cancel()
        # What is being read is waited for: cancelled, it would take its readers along, in silence.
        await asyncio.gather(*self._tasks, *self._reading.values(), return_exceptions=True)
        for tail in list(self._tails.values()):
            tail.close()
        await asyncio.to_thread(self._database.close)

    def _forget_if_alone(self, tail: RunTail) -> None:
        if not tail.followers and self._tails.get(tail.id) is tail:
            self._forget(tail)

    def _forget(self, tail: RunTail) -> None:
        tail.close()
        if self._tails.get(tail.id) is tail:
            del self._tails[tail.id]
            del self._names[str(tail.id)]
            self._stale.pop(tail.id, None)

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
        """Return some of a run's events behind ``after``, from the table, as JSON.

        Two hundred readers of one log read it once: whole pages never change, and are kept.
        """
        number = after // PAGE_COUNT
        page = self._pages.get((tail.id, number))
        if page is None:
            page = await self._page(tail, number)
        else:
            self._pages.move_to_end((tail.id, number))
        found = page[after - number * PAGE_COUNT :]
        if not found and tail.last_seq > after:  # events so large that the page was cut
            found = await self.read(reading.read_events, tail.id, after + 1, after + PAGE_COUNT)
        return found

    async def _page(self, tail: RunTail, number: int) -> list[str]:
        key = (tail.id, number, tail.last_seq)
        task = self._reading.get(key)
        if task is None:
            first = number * PAGE_COUNT + 1
            task = self._reading[key] = self._loop.create_task(
                self.read(reading.read_events, tail.id, first, first + PAGE_COUNT - 1)
            )
            task.add_done_callback(lambda _: self._reading.pop(key, None))
        page = await asyncio.shield(task)
        if len(page) == PAGE_COUNT and (tail.id, number) not in self._pages:
            self._keep(tail.id, number, page)
        return page

    def _keep(self, id: uuid.UUID, number: int, page: list[str]) -> None:
        self._pages[id, number] = page
        self._pages_characters += sum(map(len, page))
        while self._pages_characters > MOST_PAGES_CHARACTERS:
            _, oldest = self._pages.popitem(last=False)
            self._pages_characters -= sum(map(len, oldest))

    # News.

    def watches(self, run: str) -> bool:
        """Tell whether somebody here follows a run. From any thread."""
        return run in self._names

    def cares_for(self, root: uuid.UUID) -> bool:
        """Tell whether somebody here follows the runs of a tree, or all. From any thread."""
        return bool(self._lists) or root in self._trees or root in self._tails

    def hear(self, news: Iterable[tuple[Any, ...]]) -> None:
        """Take in what the ear has heard."""
        for what, *rest in news:
            match what:
                case "event":
                    self._hear_event(*rest)
                case "text":
                    self._hear_text(*rest)
                case "activity":
                    tail = self._tail_of(rest[0])
                    if tail is not None:
                        self._take_activity(tail)
                case "changed":
                    self._hear_change(*rest)

    def _hear_event(self, event: Event) -> None:
        tail = self._tail_of(event.run)
        if tail is None or tail.snapshot is None:
            return  # the snapshot that is being read has a number, and the table the event
        if event.type == "llm_call":
            tail.end_text(event.data.get("call", ""))
        if not tail.add(event.seq, encode_event(event)):
            self._note(tail.id)

    def _hear_text(self, run: str, agent: str, call: str, text: str, end: int) -> None:
        tail = self._tail_of(run)
        if tail is not None:
            tail.add_text(agent, call, text, end)

    def _hear_change(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if run in self._tails:
            self._note(run)
        if root in self._trees:
            self._note_tree(root)
        if self._lists:
            self._list_news[run] = None
            self._work.set()

    def _tail_of(self, run: str) -> RunTail | None:
        id = self._names.get(run)
        return self._tails.get(id) if id is not None else None

    def _take_activity(self, tail: RunTail) -> bool:
        """Look what is in flight, if the run is in this process: there it is known exactly."""
        entry = active.get(tail.id)
        if entry is None or entry.guard is None:
            return False
        trace = entry.guard.trace
        tail.set_activity(trace.in_flight(), trace.usage.as_dict())
        return True

    def _take_texts(self, tail: RunTail) -> None:
        """Begin with what models have said before anybody watched."""
        entry = active.get(tail.id)
        if entry is not None and entry.guard is not None:
            trace = entry.guard.trace
            for call, text in trace.texts_so_far().items():
                tail.begin_text(trace.agent, call, text)

    def _note(self, run: uuid.UUID) -> None:
        self._stale[run] = None
        self._work.set()

    def _note_tree(self, root: uuid.UUID) -> None:
        self._stale_trees.add(root)
        self._work.set()

    # Catching up with the table.

    async def _refresh(self) -> None:
        """Read what is known to be stale."""
        await self._work.wait()
        self._work.clear()
        if self._stale_trees:
            await self._refresh_trees()
        while self._stale:
            ids = list(self._stale)[:MOST_AT_ONCE]
            for id in ids:
                del self._stale[id]
            try:
                snapshots = await self.read(reading.read_snapshots, ids)
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
        if not self._take_activity(tail) and not snapshot.is_over:
            tail.set_activity(snapshot.run["in_flight"], snapshot.run["usage"])
        tail.show(snapshot)

    async def _fill(self, tail: RunTail, last_seq: int) -> None:
        """Read the events that nobody told of; very many are left in the table."""
        if last_seq <= tail.last_seq:
            return
        if last_seq - tail.last_seq > PAGE_COUNT:
            tail.begin_at(last_seq)
            return
        first = tail.last_seq + 1
        missing = await self.read(reading.read_events, tail.id, first, last_seq)
        for seq, event in enumerate(missing, first):
            tail.add(seq, event)

    async def _refresh_trees(self) -> None:
        roots, self._stale_trees = self._stale_trees & self._trees.keys(), set()
        if not roots:
            return
        try:
            trees = await self.read(reading.read_trees, roots)
        except BaseException:
            self._stale_trees |= roots
            raise
        for root, members in trees.items():
            for follower in list(self._trees.get(root, ())):
                follower.grow(members)

    async def _refresh_lists(self) -> None:
        news, self._list_news = self._list_news, {}
        ids = list(news)
        for start in range(0, len(ids), MOST_AT_ONCE):
            try:
                snapshots = await self.read(
                    reading.read_snapshots, ids[start : start + MOST_AT_ONCE]
                )
            except BaseException:
                self._list_news = dict.fromkeys(ids[start:]) | self._list_news
                raise
            for follower in list(self._lists):
                follower.take(snapshots.values())

    async def _look(self) -> None:
        """Find what nobody told of."""
        self._stale_trees |= self._trees.keys()
        if self._stale_trees:
            self._work.set()
        watched = [tail for tail in self._tails.values() if not (tail.is_complete or tail.is_gone)]
        for start in range(0, len(watched), MOST_AT_ONCE):
            some = watched[start : start + MOST_AT_ONCE]
            found = await self.read(reading.fingerprints, [tail.id for tail in some])
            for tail in some:
                self._take_activity(tail)
                if _has_news(tail, found.get(tail.id)):
                    self._note(tail.id)
                tail.fingerprint = found.get(tail.id)

    async def _look_at_lists(self) -> None:
        if not self._lists:
            return
        young = timezone.now() - timedelta(seconds=5 * LIST_LOOK_SECONDS)
        found = await self.read(reading.active_runs, young, MOST_LISTED)
        news = {id for id, fingerprint in found.items() if self._listed.get(id) != fingerprint}
        news |= self._listed.keys() - found.keys()
        self._listed = found
        if news:
            self._list_news |= dict.fromkeys(news)
            self._work.set()

    async def _look_at_rights(self) -> None:
        if not self._watchers:
            return
        lost = await self.read(rights.find_lost, {one.viewer for one in self._watchers})
        for watcher in list(self._watchers):
            if watcher.viewer in lost:
                self._dismiss(watcher, lost[watcher.viewer])

    def _dismiss(self, watcher: Watcher, why: RightLost) -> None:
        watcher.lost = why
        watcher.wake()

    async def _listen(self) -> None:
        """Hear the news of other processes, until the channel layer fails."""
        layer = get_channel_layer()
        if layer is None or not relay.is_shared(layer):
            await asyncio.Event().wait()
            return
        channel = await layer.new_channel()
        await layer.group_add(relay.FEED_GROUP, channel)
        while True:
            message = await layer.receive(channel)
            if message.get("from") == self._process:
                continue
            for run in message.get("logs", ()):
                if run in self._names:
                    self._note(self._names[run])
            for run, root in message.get("changed", ()):
                self._hear_change(uuid.UUID(run), uuid.UUID(root))

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
                self._work.set()
            await asyncio.sleep(max(pause, min(2.0, 0.2 * failures)))


class TreeFollower(Wakeable, Protocol):
    """Whoever follows a tree."""

    def grow(self, members: dict[uuid.UUID, uuid.UUID | None]) -> None:
        """Learn of all runs of the tree, each with its caller."""


class _Ear:
    """A ``live.Listener`` that carries news from any thread to the hub's loop, many at a time."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._news: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()
        self._is_told = False

    def event(self, event: Event) -> None:
        if self._hub.watches(event.run):
            self._put(("event", event))

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        if self._hub.watches(run):
            entry = active.get(uuid.UUID(run))
            guard = entry.guard if entry is not None else None
            # Told by the thread that has just passed it on: this is where the piece ends.
            end = guard.trace.text_length(call) if guard is not None else 0
            self._put(("text", run, agent, call, text, end))

    def activity(self, run: str, in_flight: list[CallInfo]) -> None:
        if self._hub.watches(run):
            self._put(("activity", run))

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if self._hub.cares_for(root) or self._hub.watches(str(run)):
            self._put(("changed", run, root))

    def _put(self, news: tuple[Any, ...]) -> None:
        with self._lock:
            self._news.append(news)
            if self._is_told:
                return
            self._is_told = True
        try:
            self._loop.call_soon_threadsafe(self._pass_on)
        except RuntimeError:  # the loop is closed; whoever watched is gone
            live.remove_listener(self)

    def _pass_on(self) -> None:
        with self._lock:
            news, self._news = self._news, deque()
            self._is_told = False
        self._hub.hear(news)


def _has_news(tail: RunTail, found: Fingerprint | None) -> bool:
    """Tell whether a look has found what is not known of a run yet."""
    before = tail.fingerprint
    if found is None or before is None or found.receipt != before.receipt:
        return True
    if found.last_seq > tail.last_seq:
        return True
    if found.activity != before.activity and active.get(tail.id) is None:
        return True
    # A worker that falls silent changes nothing in the record of a run that is to stop.
    return tail.snapshot is not None and tail.snapshot.run["stop"] is not None


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def get_hub() -> Hub:
    """Return the hub of the running loop."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub()
    return hub


async def close_hub() -> None:
    """Close the hub of the running loop, if there is one; nobody may join it any more."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        await hub.close()
