"""News for other processes, by the channel layer.

Messages only save time: the database is the truth, and every worker looks there once a second. So
a message that can't be sent is logged and forgotten, and nothing here may fail a caller.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer

from . import active

__all__ = ["WORKERS_GROUP", "send_stop", "wake_workers", "worker_group"]

logger = logging.getLogger(__name__)

WORKERS_GROUP = "runs.workers"


def worker_group(worker: uuid.UUID) -> str:
    """Return the name of the group that one worker listens to."""
    return f"runs.worker.{worker.hex}"


def wake_workers() -> None:
    """Tell all workers that a run was queued: those here directly, the others by message."""
    active.wake()
    _send(WORKERS_GROUP, {"type": "run.wake"})


def send_stop(worker: uuid.UUID, runs: Sequence[uuid.UUID]) -> None:
    """Tell a worker in another process that runs of its were asked to stop."""
    _send(worker_group(worker), {"type": "run.stop", "runs": [str(run) for run in runs]})


def _send(group: str, message: dict[str, Any]) -> None:
    layer = get_channel_layer()
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return  # nobody else could hear it
    try:
        async_to_sync(layer.group_send)(group, message)
    except Exception as error:  # redis, socket, timeout: each layer has its own
        logger.warning("no message to %s (%s); workers look by themselves", group, error)
