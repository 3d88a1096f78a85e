"""A channel layer that loses messages, and tells others twice."""

from __future__ import annotations

import random
from typing import Any

from django.conf import settings

from runs.delivery.redis_layer import RedisLayer

__all__ = ["LossyLayer"]


class LossyLayer(RedisLayer):
    """Between two processes anything may be lost; ``LOST_MESSAGES`` says how often."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        layer = self._get_layer()  # as the methods that it makes up itself do
        for _ in range(_times()):
            await layer.group_send(group, message)

    def group_send_now(self, group: str, message: dict[str, Any]) -> None:
        for _ in range(_times()):
            super().group_send_now(group, message)


def _times() -> int:
    """Return how many times a message arrives."""
    chance = random.random()
    return 0 if chance < settings.LOST_MESSAGES else 2 if chance > 1 - settings.LOST_MESSAGES else 1
