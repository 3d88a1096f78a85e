"""Receives what the runs of this process do, from any thread, and brings it to the hub's loop."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from agents.trace import CallInfo, Event
from runs.delivery import local_runs, notify

from .frames import to_json
from .refresh import Refresher
from .tail import Tails

__all__ = ["HubListener"]


class HubListener:
    """A ``notify.Listener``. What comes within one turn of the loop is passed on together."""

    def __init__(self, tails: Tails, refresher: Refresher) -> None:
        self._tails = tails
        self._refresher = refresher
        self._loop = asyncio.get_running_loop()
        self._updates: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_scheduled = False

    # In any thread.

    def event(self, event: Event) -> None:
        if event.run in self._tails:
            self._pass_on(self._take_event, event)

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        if run in self._tails:
            trace = local_runs.trace_of(uuid.UUID(run))
            # The thread that has just streamed the piece calls this: the answer ends with it.
            end = trace.text_length(call) if trace is not None else 0
            self._pass_on(self._take_text, run, agent, call, end - len(text), text)

    def activity(self, run: str, in_flight: list[CallInfo]) -> None:
        if run in self._tails:
            self._pass_on(self._take_activity, run)

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        if self._refresher.is_followed(run, root):
            self._pass_on(self._refresher.run_has_changed, run, root)

    def _pass_on(self, take: Callable[..., None], *what: Any) -> None:
        self._updates.append((take, what))
        if not self._is_scheduled:  # at worst, two threads schedule it
            self._is_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._take_all)
            except RuntimeError:  # the loop is closed, and its readers are gone
                notify.remove_listener(self)

    # On the hub's loop.

    def _take_all(self) -> None:
        self._is_scheduled = False  # first: what is appended from now on is scheduled again
        for _ in range(len(self._updates)):
            take, what = self._updates.popleft()
            take(*what)

    def _take_event(self, event: Event) -> None:
        tail = self._tails.get(event.run)
        if tail is None or tail.snapshot is None:
            return  # the snapshot that is being read has a number, and the table the event
        if event.type == "llm_call":
            tail.texts.end(event.data.get("call", ""))
        if not tail.add(event.seq, to_json(event.as_dict())):
            self._refresher.run_is_stale(tail.id)

    def _take_text(self, run: str, agent: str, call: str, start: int, text: str) -> None:
        tail = self._tails.get(run)
        if tail is not None and not tail.texts.take(agent, call, start, text):
            tail.take_texts()

    def _take_activity(self, run: str) -> None:
        tail = self._tails.get(run)
        if tail is not None:
            tail.take_activity()
