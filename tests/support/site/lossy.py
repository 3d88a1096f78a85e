"""A channel layer that loses messages, and tells others twice."""

from __future__ import annotations

import random
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings

__all__ = ["LossyLayer"]


class LossyLayer(RedisPubSubChannelLayer):
    """Between two processes anything may be lost; ``LOST_MESSAGES`` says how often."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        layer = self._get_layer()  # as the methods that it makes up itself do
        chance = random.random()
        if chance < settings.LOST_MESSAGES:
            return
        await layer.group_send(group, message)
        if chance > 1 - settings.LOST_MESSAGES:
            await layer.group_send(group, message)
