"""Sends messages to other processes, through the channel layer.

What a person waits for leaves at once, in the thread of the caller. The rest leaves in a thread of
its own. No caller waits for a layer that fails: a message that can't be sent is dropped, and its
receivers find out by polling.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer

from .messages import Message

__all__ = ["FEED_GROUP", "PROCESS", "Outbox", "is_shared", "outbox"]

logger = logging.getLogger(__name__)

FEED_GROUP = "runs.feed"
#: The sender of a message. A process skips its own: its listeners know already.
PROCESS = uuid.uuid4().hex

SEND_SECONDS = 2.0
MOST_WAITING = 1_000  # messages


def is_shared(layer: Any) -> bool:
    """Tell whether other processes can receive from a channel layer."""
    return layer is not None and not isinstance(layer, InMemoryChannelLayer)


class Outbox:
    """The messages of this process. Has a thread with a loop and one connection.

    Attributes:
        dropped_count: how many messages were not sent.
        is_failing: the layer did not take the last message.
    """

    def __init__(self) -> None:
        self.dropped_count = 0
        self.is_failing = False
        self._lock = threading.Lock()
        self._waiting: dict[object, tuple[str, Message]] = {}  # in order
        self._is_sending = False
        self._due: set[Callable[[], None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    # In any thread.

    def send(self, group: str, message: Message, *, is_repeated: bool = False) -> None:
        """Send ``message`` soon; never wait.

        With ``is_repeated``, leave it out if one to the same group has not left yet.
        """
        with self._lock:
            key: object = group if is_repeated else object()
            if key in self._waiting or len(self._waiting) >= MOST_WAITING:
                self.dropped_count += key not in self._waiting
                return
            loop = self._running_loop()
            self._waiting[key] = (group, message)
            if not self._is_sending:
                self._is_sending = True
                self._sending = asyncio.run_coroutine_threadsafe(self._send_all(), loop)

    def send_at_once(self, group: str, message: Message, *, is_repeated: bool = False) -> None:
        """Send ``message`` before this returns, if the layer can; else, or if it fails, soon.

        A change of thread takes half a millisecond where processors are busy. Not to be called on
        an event loop.
        """
        layer = get_channel_layer()
        send_now = getattr(layer, "group_send_now", None)  # redis_layer.RedisLayer has it
        if send_now is not None and not self.is_failing:
            try:
                send_now(group, message)
            except OSError:
                pass  # the thread tries again, and logs it if that fails, too
            else:
                return
        self.send(group, message, is_repeated=is_repeated)

    def call_later(self, seconds: float, work: Callable[[], None]) -> None:
        """Call ``work`` in the thread, once for all calls of this until then; it must not block."""
        with self._lock:
            if work not in self._due:
                loop = self._running_loop()
                self._due.add(work)
                loop.call_soon_threadsafe(loop.call_later, seconds, self._call, work)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="runs-relay", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, for now
                loop.close()
                raise
            self._loop = loop
        return self._loop

    # In the thread.

    def _call(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._due.discard(work)
        work()

    async def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_sending = False
                    return
                group, message = self._waiting.pop(next(iter(self._waiting)))
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await get_channel_layer().group_send(group, message)
                self.is_failing = False
            except Exception as error:  # redis, socket, full: each layer has its own
                if not self.is_failing:
                    why = str(error) or type(error).__name__
                    logger.warning("no messages to other processes (%s); they poll", why)
                self.is_failing = True
                # A layer that does not answer would keep each of them waiting in its turn.
                with self._lock:
                    self.dropped_count += len(self._waiting) + 1
                    self._waiting.clear()


#: Of this process.
outbox = Outbox()
