"""The channel layer over Redis, to which a thread without an event loop can send, too."""

from __future__ import annotations

import functools
from typing import Any

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["RedisLayer"]


class RedisLayer(RedisPubSubChannelLayer):
    """The layer of channels_redis over pub/sub, of one Redis.

    Args:
        host: as channels_redis has it, a dict with "address" and options of redis-py.
        prefix: of the names of all channels.
    """

    def __init__(self, host: dict[str, Any], prefix: str) -> None:
        super().__init__(hosts=[host], prefix=prefix)
        self._host = host
        self._prefix = prefix

    def group_send_now(self, group: str, message: dict[str, Any]) -> None:
        """Send to all subscribers of a group, and return once Redis has it. From any thread.

        Raises:
            redis.RedisError: it does not answer, or not soon enough.
        """
        # A layer of its own for the names alone: what it does takes a loop.
        name = self._names._get_group_channel_name(group)
        self._redis.publish(name, self.serialize(message))

    @functools.cached_property
    def _names(self) -> RedisPubSubLoopLayer:
        return RedisPubSubLoopLayer(hosts=[self._host], prefix=self._prefix, channel_layer=self)

    @functools.cached_property
    def _redis(self) -> redis.Redis:
        options = dict(self._host)
        # Whoever asks waits for one try. A connection that has broken is found before it is used.
        return redis.Redis.from_url(options.pop("address"), retry=Retry(NoBackoff(), 0), **options)
