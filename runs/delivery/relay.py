"""Sends what other processes are to hear, by the channel layer.

Stops and wake-ups leave at once, in the thread of the caller. The rest leaves in a
thread of its own: news of runs for feeds are collected for a moment, and say only that there are
some: who cares reads the table. So a message is small, many news fit into one, and it does not
matter in which order they come or whether they come at all.

No caller waits for a layer that fails. What can't be sent is given up: all listeners also poll by
themselves.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from redis.exceptions import RedisError

from .redis_layer import RedisLayer

__all__ = [
    "FEED_GROUP",
    "PROCESS",
    "call_later",
    "dropped_count",
    "is_shared",
    "send",
    "send_at_once",
    "tell_of_change",
    "tell_of_log",
]

logger = logging.getLogger(__name__)

FEED_GROUP = "runs.feed"
#: Who sends: this process has heard its own news already.
PROCESS = uuid.uuid4().hex

COLLECT_SECONDS = 0.02
SEND_SECONDS = 2.0
MOST_RUNS = 500  # in one message; what is beyond is found by the others' looks
MOST_WAITING = 1_000  # messages


def is_shared(layer: Any) -> bool:
    """Tell whether other processes can hear a channel layer."""
    return layer is not None and not isinstance(layer, InMemoryChannelLayer)


def send(group: str, message: dict[str, Any], *, is_repeated: bool = False) -> None:
    """Send ``message`` soon. From any thread; never waits.

    With ``is_repeated`` it says nothing that one to the same group which has not left yet does not
    say, and is left out.
    """
    _relay.send(group, message, is_repeated)


def send_at_once(group: str, message: dict[str, Any], *, is_repeated: bool = False) -> None:
    """Send ``message`` before this returns, if the layer can; else, or if it fails, as ``send``.

    For what a person waits for: a change of thread takes half a millisecond where processors are
    busy. From any thread but an event loop's.
    """
    layer = get_channel_layer()
    if isinstance(layer, RedisLayer) and not _relay.is_failing:
        try:
            layer.group_send_now(group, message)
        except (RedisError, OSError):
            pass  # the relay tries again, and says so if that fails, too
        else:
            return
    _relay.send(group, message, is_repeated)


def tell_of_change(run: uuid.UUID, root: uuid.UUID) -> None:
    """Say that a run is new, or that its status or receipt reads otherwise. From any thread."""
    _relay.put(str(run), str(root))


def tell_of_log(run: str) -> None:
    """Say that there are new events of a run. From any thread."""
    _relay.put(run, "")


def call_later(seconds: float, work: Callable[[], None]) -> None:
    """Call ``work``, which must not block, in the relay's thread after a while. From anywhere."""
    _relay.call_later(seconds, work)


def dropped_count() -> int:
    """Return how many messages, and news beyond what fits into one, were not sent from here."""
    return _relay.dropped_count


#: To which group, and what.
_Message = tuple[str, dict[str, Any]]


class _Relay:
    """A thread with a loop, and so with one connection, of its own."""

    def __init__(self) -> None:
        self.dropped_count = 0
        self._lock = threading.Lock()
        self._waiting: dict[object, _Message] = {}  # in the order of their coming
        self._changed: dict[str, str] = {}  # run -> root
        self._logs: set[str] = set()
        self._is_collecting = False
        self._is_sending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_failing = False

    def send(self, group: str, message: dict[str, Any], is_repeated: bool = False) -> None:
        with self._lock:
            key: object = group if is_repeated else object()
            if key in self._waiting or len(self._waiting) >= MOST_WAITING:
                self.dropped_count += key not in self._waiting
                return
            loop = self._running_loop()
            self._waiting[key] = (group, message)
            if self._is_sending:
                return
            self._is_sending = True
        loop.call_soon_threadsafe(self._begin)

    def put(self, run: str, root: str) -> None:
        with self._lock:
            loop = self._running_loop()
            if root:
                self._changed[run] = root
            else:
                self._logs.add(run)
            if self._is_collecting:
                return
            self._is_collecting = True
        loop.call_soon_threadsafe(loop.call_later, COLLECT_SECONDS, self._hand_in_news)

    def call_later(self, seconds: float, work: Callable[[], None]) -> None:
        with self._lock:
            loop = self._running_loop()
        loop.call_soon_threadsafe(loop.call_later, seconds, work)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(
                target=self._main, args=(loop,), name="runs-relay", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads, for now
                loop.close()
                raise
            self._loop = loop
        return self._loop

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def _hand_in_news(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
            logs, self._logs = self._logs - changed.keys(), set()
            self._is_collecting = False
            beyond = max(0, len(changed) - MOST_RUNS), max(0, len(logs) - MOST_RUNS)
            self.dropped_count += sum(beyond)
        message = {
            "type": "feed.news",
            "from": PROCESS,
            "changed": list(changed.items())[:MOST_RUNS],
            "logs": list(logs)[:MOST_RUNS],
        }
        self.send(FEED_GROUP, message)

    def _begin(self) -> None:
        assert self._loop is not None
        self._sending = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_sending = False
                    return
                group, message = self._waiting.pop(next(iter(self._waiting)))
            if not await self._send(group, message):
                # A layer that does not answer would keep each of them waiting in its turn.
                with self._lock:
                    self.dropped_count += len(self._waiting) + 1
                    self._waiting.clear()

    async def _send(self, group: str, message: dict[str, Any]) -> bool:
        layer = get_channel_layer()
        if layer is None:
            return True
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await layer.group_send(group, message)
            self.is_failing = False
        except Exception as error:  # redis, socket, full: each layer has its own
            if not self.is_failing:
                logger.warning(
                    "no messages to other processes (%s); they look by themselves",
                    str(error) or type(error).__name__,
                )
            self.is_failing = True
            return False
        return True


_relay = _Relay()
