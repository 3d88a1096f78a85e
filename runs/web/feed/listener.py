"""Receives what the runs of this process do, from any thread, and brings it to the hub's loop."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from agents.trace import Event
from agents.wire import CallInfo
from runs.delivery import local_runs, notify

from .refresh import Refresher
from .tail import Tails, encode_event

__all__ = ["HubListener"]


class HubListener:
    """A ``notify.Listener``. What comes within one turn of the loop is passed on together."""

    def __init__(self, tails: Tails, refresher: Refresher) -> None:
        self._tails = tails
        self._refresher = refresher
        self._loop = asyncio.get_running_loop()
        self._updates: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._is_scheduled = False

    # In any thread.

    def event(self, event: Event) -> None:
        if self._tails.has(event.run):
            self._pass_on(self._take_event, event)

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        if self._tails.has(run):
            entry = local_runs.get(uuid.UUID(run))
            guard = entry.guard if entry is not None else None
            # The thread that has just streamed the piece calls this: the answer ends with it.
            end = guard.trace.text_length(call) if guard is not None else 0
            self._pass_on(self._take_text, run, agent, call, end - len(text), text)

    def activity(self, run: str, in_flight: list[CallInfo]) -> None:
        if self._tails.has(run):
            self._pass_on(self._take_activity, run)

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if self._tails.has(str(run)) or self._refresher.cares_for(root):
            self._pass_on(self._refresher.run_has_changed, run, root)

    def _pass_on(self, take: Callable[..., None], *what: Any) -> None:
        with self._lock:
            self._updates.append((take, what))
            if self._is_scheduled:
                return
            self._is_scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._take_all)
        except RuntimeError:  # the loop is closed, and its readers are gone
            notify.remove_listener(self)

    # On the hub's loop.

    def _take_all(self) -> None:
        with self._lock:
            updates, self._updates = self._updates, deque()
            self._is_scheduled = False
        for take, what in updates:
            take(*what)

    def _take_event(self, event: Event) -> None:
        tail = self._tails.named(event.run)
        if tail is None or tail.snapshot is None:
            return  # the snapshot that is being read has a number, and the table the event
        if event.type == "llm_call":
            tail.texts.end(event.data.get("call", ""))
        if not tail.add(event.seq, encode_event(event)):
            self._refresher.run_is_stale(tail.id)

    def _take_text(self, run: str, agent: str, call: str, start: int, text: str) -> None:
        tail = self._tails.named(run)
        if tail is not None and not tail.texts.take(agent, call, start, text):
            tail.take_texts()

    def _take_activity(self, run: str) -> None:
        tail = self._tails.named(run)
        if tail is not None:
            tail.take_activity()
