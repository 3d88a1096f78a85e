"""A channel layer that loses messages, and sends others twice."""

from __future__ import annotations

import random
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings

__all__ = ["LossyLayer"]


class LossyLayer(RedisPubSubChannelLayer):
    """Between two processes anything may be lost; ``LOST_MESSAGES`` says how often."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        layer = self._get_layer()  # as its own methods do
        for _ in range(_times()):
            await layer.group_send(group, message)


def _times() -> int:
    """Return how many times a message arrives."""
    chance = random.random()
    return 0 if chance < settings.LOST_MESSAGES else 2 if chance > 1 - settings.LOST_MESSAGES else 1
