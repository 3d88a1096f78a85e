"""The channel layer over Redis; a thread without an event loop can also send to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
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
        self._prefix = prefix
        options = dict(host)
        # The caller waits for one try. redis-py finds a broken connection before it uses it.
        retry = Retry(NoBackoff(), 0)
        self._redis = redis.Redis.from_url(options.pop("address"), retry=retry, **options)

    def group_send_now(self, group: str, message: Mapping[str, Any]) -> None:
        """Send to all subscribers of a group, and return once Redis has it. From any thread.

        Raises:
            redis.RedisError: it does not answer, or not soon enough.
        """
        # The name that channels_redis gives to a group; a test compares what both ways deliver.
        self._redis.publish(f"{self._prefix}__group__{group}", self.serialize(message))
