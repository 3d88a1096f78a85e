"""Channels consumers. ``AgentConsumer`` brings wake-ups and stops to this process's worker.

The handler only hands over: the work itself is done by the worker, whose agents run with their
token in a ContextVar. A message that is lost costs half a second; a broken layer is retried with
growing pauses and never ends the worker.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from channels.consumer import AsyncConsumer
from channels.layers import get_channel_layer

from .live import WORKERS_GROUP, worker_group

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["AgentConsumer", "listen"]

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)


class AgentConsumer(AsyncConsumer):
    """Hands messages from the channel layer to the worker."""

    worker: Worker

    async def run_wake(self, message: dict[str, Any]) -> None:
        """A run was queued: {"type": "run.wake"}."""
        self.worker.wake()

    async def run_stop(self, message: dict[str, Any]) -> None:
        """Runs of this worker were asked to stop: {"type": "run.stop", "runs": [id, ...]}."""
        self.worker.look()


async def listen(worker: Worker) -> None:
    """Receive this worker's messages until cancelled."""
    layer = get_channel_layer()
    if layer is None:
        return
    failures = 0
    while True:
        try:
            channel = await layer.new_channel()
            await layer.group_add(WORKERS_GROUP, channel)
            await layer.group_add(worker_group(worker.id), channel)
            failures = 0
            worker.wake()
            worker.look()  # for what was sent before
            consumer = AgentConsumer()
            consumer.worker = worker
            while True:
                await _hand_over(consumer, await layer.receive(channel))
        except Exception as error:  # redis, socket, timeout: each layer has its own
            pause = PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
            failures += 1
            logger.warning("the channel layer does not answer (%s); again in %g s", error, pause)
            await asyncio.sleep(pause)


async def _hand_over(consumer: AgentConsumer, message: dict[str, Any]) -> None:
    handlers = {"run.wake": consumer.run_wake, "run.stop": consumer.run_stop}
    handler = handlers.get(message.get("type", ""))
    if handler is None:
        logger.warning("a message of an unknown type: %r", message.get("type"))
        return
    await handler(message)
