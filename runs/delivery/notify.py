"""Updates of runs: to listeners in this process directly, to other processes by message.

Messages only save time: the database is the truth, and workers and feeds poll it. So a message that
can't be sent is dropped, and nothing here fails a caller or keeps it waiting.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from channels.layers import get_channel_layer
from django.db import Error

from agents.trace import Event, Trace
from agents.wire import CallOnWire

from . import feeds, local_runs, relay, worker_choice
from .stop_message import StopDelivery

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

T = TypeVar("T")

WORKERS_GROUP = "runs.workers"


class Listener(Protocol):
    """Receives what the runs of this process do. Called from any thread; must not block."""

    def event(self, event: Event) -> None:
        """An event was committed; those of one run come in order."""

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        """A piece of a model's answer was streamed; it is stored nowhere."""

    def activity(self, run: str, in_flight: list[CallOnWire]) -> None:
        """The calls in flight have changed."""

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        """A run was created, or its status or receipt was written; ``root`` is its tree's."""


_listeners: list[Listener] = []


def add_listener(listener: Listener) -> None:
    _listeners.append(listener)


def remove_listener(listener: Listener) -> None:
    if listener in _listeners:
        _listeners.remove(listener)


def publish_events(events: Iterable[Event]) -> None:
    """Pass on committed events."""
    _publish(lambda listener, event: listener.event(event), events)


def publish_changes(runs: Iterable[tuple[uuid.UUID, uuid.UUID]]) -> None:
    """Pass on that the records of runs, each with its root, are new or have changed."""
    _publish(lambda listener, run: listener.changed(*run), runs)


def publish_progress(runs: Iterable[str]) -> None:
    """Tell readers in other processes that the calls in flight are committed."""
    for run in runs:
        if feeds.sender.is_wanted(run):
            feeds.sender.tell_of_log(run)


def publish_text(run: str, agent: str, call: str, text: str) -> None:
    _publish(lambda listener, piece: listener.text(*piece), [(run, agent, call, text)])


def publish_activity(trace: Trace) -> None:
    if _listeners:
        _publish(lambda listener, calls: listener.activity(trace.run, calls), [trace.in_flight()])


def _publish(tell: Callable[[Listener, T], None], updates: Iterable[T]) -> None:
    listeners = list(_listeners)
    if relay.is_shared(get_channel_layer()):
        listeners.append(feeds.sender)
    for update in updates:
        for listener in listeners:
            try:
                tell(listener, update)
            except Exception:
                logger.exception("a listener failed")


def worker_group(worker: uuid.UUID) -> str:
    """Return the name of one worker's group."""
    return f"runs.worker.{worker.hex}"


def send_start(run: uuid.UUID) -> None:
    """Have one worker with capacity claim a queued run: of this process directly, else by message.

    If no worker is known to have capacity, wake all workers.
    """
    if local_runs.wake() or not relay.is_shared(get_channel_layer()):
        return
    try:
        worker = worker_choice.choice.choose()
    except Error as error:
        logger.info("no worker can be chosen (%s), all are woken", type(error).__name__)
        worker = None
    if worker is None:
        wake_workers()
    else:
        relay.outbox.send_at_once(worker_group(worker), {"type": "run.start", "run": str(run)})


def wake_workers() -> None:
    """Have all workers claim: those of this process directly, the others by message."""
    local_runs.wake()
    if relay.is_shared(get_channel_layer()):
        relay.outbox.send_at_once(WORKERS_GROUP, {"type": "run.wake"}, is_repeated=True)


def send_ended(worker: uuid.UUID, runs: Sequence[uuid.UUID]) -> None:
    """Tell a worker in another process that runs which it started are over."""
    if relay.is_shared(get_channel_layer()):
        ended = [str(run) for run in runs]
        relay.outbox.send(worker_group(worker), {"type": "run.ended", "runs": ended})


def send_stops(deliveries: Iterable[StopDelivery]) -> None:
    """Send stop requests to the workers of other processes."""
    if not relay.is_shared(get_channel_layer()):
        return  # no other process could receive it
    stops: dict[uuid.UUID, list[StopDelivery]] = {}
    for delivery in deliveries:
        if delivery.worker is not None:
            stops.setdefault(delivery.worker, []).append(delivery)
    for worker, mine in stops.items():
        messages = [delivery.as_message() for delivery in mine]
        relay.outbox.send_at_once(worker_group(worker), {"type": "run.stop", "stops": messages})
