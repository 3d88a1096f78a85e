"""Carries news of this process's runs to the feeds of other processes, by the channel layer.

Only that there are news, not what: who cares reads the table. So a message is small, many news fit
into one, and it does not matter in which order they come or whether they come at all.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer

__all__ = ["FEED_GROUP", "PROCESS", "is_shared", "tell_of_change", "tell_of_log"]

logger = logging.getLogger(__name__)

FEED_GROUP = "runs.feed"
#: Who sends: this process has heard its own news already.
PROCESS = uuid.uuid4().hex

COLLECT_SECONDS = 0.02
SEND_SECONDS = 5.0
MOST_RUNS = 500  # in one message; what is beyond is found by the others' looks


def is_shared(layer: Any) -> bool:
    """Tell whether other processes can hear a channel layer."""
    return layer is not None and not isinstance(layer, InMemoryChannelLayer)


def tell_of_change(run: uuid.UUID, root: uuid.UUID) -> None:
    """Say that a run is new, or that its status or receipt reads otherwise. From any thread."""
    _relay.put(str(run), str(root))


def tell_of_log(run: str) -> None:
    """Say that there are new events of a run. From any thread."""
    _relay.put(run, "")


class _Relay:
    """A thread with a loop, and so with one connection, of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed: dict[str, str] = {}  # run -> root
        self._logs: set[str] = set()
        self._is_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_failing = False

    def put(self, run: str, root: str) -> None:
        with self._lock:
            if root:
                self._changed[run] = root
            else:
                self._logs.add(run)
            if self._is_due:
                return
            self._is_due = True
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._main, name="runs-relay", daemon=True).start()
        self._loop.call_soon_threadsafe(self._loop.call_later, COLLECT_SECONDS, self._begin)

    def _main(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _begin(self) -> None:
        assert self._loop is not None
        self._sending = self._loop.create_task(self._send())

    async def _send(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
            logs, self._logs = self._logs - changed.keys(), set()
            self._is_due = False
        message: dict[str, Any] = {
            "type": "feed.news",
            "from": PROCESS,
            "changed": list(changed.items())[:MOST_RUNS],
            "logs": list(logs)[:MOST_RUNS],
        }
        layer = get_channel_layer()
        if layer is None:
            return
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await layer.group_send(FEED_GROUP, message)
            self._is_failing = False
        except Exception as error:  # redis, socket, full: each layer has its own
            if not self._is_failing:
                logger.warning("no news to other processes (%s); they look by themselves", error)
            self._is_failing = True


_relay = _Relay()
