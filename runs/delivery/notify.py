"""News of runs: to listeners in this process directly, to other processes by the channel layer.

Messages only save time: the database is the truth, and every worker looks there twice a second. So
a message that can't be sent is forgotten, and nothing here may fail a caller or keep it waiting.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from channels.layers import get_channel_layer
from django.db import DatabaseError, InterfaceError

from agents.trace import Event, Trace
from agents.wire import CallInfo

from . import local_runs, relay, streamed_text
from .stop_message import StopDelivery
from .worker_choice import choose_worker

__all__ = [
    "WORKERS_GROUP",
    "Listener",
    "add_listener",
    "publish_activity",
    "publish_changes",
    "publish_events",
    "publish_progress",
    "publish_text",
    "remove_listener",
    "send_ended",
    "send_start",
    "send_stops",
    "wake_workers",
    "worker_group",
]

logger = logging.getLogger(__name__)

WORKERS_GROUP = "runs.workers"


class Listener(Protocol):
    """Hears what the runs of this process do. Called from any thread; must not block."""

    def event(self, event: Event) -> None:
        """An event was committed; those of one run come in order."""

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        """A piece of a model's answer as it streams."""

    def activity(self, run: str, in_flight: list[CallInfo]) -> None:
        """What is in flight has changed."""

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        """A run was born, or its status or receipt was written; ``root`` is its tree's."""


_listeners: list[Listener] = []


def add_listener(listener: Listener) -> None:
    _listeners.append(listener)


def remove_listener(listener: Listener) -> None:
    if listener in _listeners:
        _listeners.remove(listener)


def publish_events(events: Iterable[Event]) -> None:
    """Tell of events that are committed."""
    is_shared = relay.is_shared(get_channel_layer())
    if _listeners or is_shared:
        for event in events:
            _tell(lambda listener, event=event: listener.event(event))  # type: ignore[misc]
            if is_shared:
                relay.tell_of_log(event.run)


def publish_changes(runs: Iterable[tuple[uuid.UUID, uuid.UUID]]) -> None:
    """Tell of runs, each with its root, whose committed record is new or reads otherwise now."""
    is_shared = relay.is_shared(get_channel_layer())
    if _listeners or is_shared:
        for run, root in runs:
            _tell(lambda listener, run=run, root=root: listener.changed(run, root))  # type: ignore[misc]
            if is_shared:
                relay.tell_of_change(run, root)


def publish_progress(runs: Iterable[str]) -> None:
    """Tell those who watch from other processes that what is in flight is committed."""
    for run in runs:
        if streamed_text.is_wanted(run):
            relay.tell_of_log(run)


def publish_text(run: str, agent: str, call: str, text: str) -> None:
    """Tell of streamed text, which is stored nowhere."""
    streamed_text.note(run)
    if _listeners:
        _tell(lambda listener: listener.text(run, agent, call, text))


def publish_activity(trace: Trace) -> None:
    """Tell what is in flight now."""
    if _listeners:
        run, in_flight = trace.run, trace.in_flight()
        _tell(lambda listener: listener.activity(run, in_flight))


def _tell(news: Callable[[Listener], None]) -> None:
    for listener in list(_listeners):
        try:
            news(listener)
        except Exception:
            logger.exception("a listener failed")


def worker_group(worker: uuid.UUID) -> str:
    """Return the name of the group that one worker listens to."""
    return f"runs.worker.{worker.hex}"


def send_start(run: uuid.UUID) -> None:
    """Have one worker with capacity claim a queued run: of this process directly, else by message.

    ``run.start`` is the message that ``AgentConsumer`` executes. Where no worker is known to have
    capacity, all workers are woken.
    """
    if local_runs.wake() or not relay.is_shared(get_channel_layer()):
        return
    try:
        worker = choose_worker()
    except (DatabaseError, InterfaceError) as error:
        logger.info("no worker can be chosen (%s), all are woken", type(error).__name__)
        worker = None
    if worker is None:
        wake_workers()
    else:
        message = {"type": "run.start", "run": str(run)}
        relay.send_at_once(worker_group(worker), message)


def wake_workers() -> None:
    """Have all workers claim: those of this process directly, the others by message."""
    local_runs.wake()
    if relay.is_shared(get_channel_layer()):
        relay.send_at_once(WORKERS_GROUP, {"type": "run.wake"}, is_repeated=True)


def send_ended(worker: uuid.UUID, runs: Sequence[uuid.UUID]) -> None:
    """Tell a worker in another process that runs are over which were started there."""
    if relay.is_shared(get_channel_layer()):
        message = {"type": "run.ended", "runs": [str(run) for run in runs]}
        relay.send(worker_group(worker), message)


def send_stops(deliveries: Iterable[StopDelivery]) -> None:
    """Tell the workers of other processes that runs of theirs were asked to stop."""
    if not relay.is_shared(get_channel_layer()):
        return  # no other process could receive it
    stops: dict[uuid.UUID, list[StopDelivery]] = {}
    for delivery in deliveries:
        if delivery.worker is not None:
            stops.setdefault(delivery.worker, []).append(delivery)
    for worker, mine in stops.items():
        message = {"type": "run.stop", "stops": [delivery.as_message() for delivery in mine]}
        relay.send_at_once(worker_group(worker), message)
