"""The channel layer over Redis; a thread without an event loop can also send to it.

With keys, all messages are encrypted and authenticated (Fernet, by channels_redis). So a program
that can write to Redis, but does not know them, can neither read a message nor make one up. It can
repeat one, which changes nothing: each is either a hint to look at the database, or a stop request
that the database has had since before the message was sent, addressed to one attempt of one run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["RedisLayer"]

logger = logging.getLogger(__name__)


class RedisLayer(RedisPubSubChannelLayer):
    """The layer of channels_redis over pub/sub, of one Redis.

    Args:
        host: as channels_redis has it, a dict with "address" and options of redis-py.
        prefix: of the names of all channels; two installations on one Redis need two.
        symmetric_encryption_keys: the first one encrypts; a message under any of them is read.
            Without any, every program that reaches Redis can read and write messages.
    """

    def __init__(
        self,
        host: dict[str, Any],
        prefix: str = "halting",
        symmetric_encryption_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(
            hosts=[host], prefix=prefix, symmetric_encryption_keys=list(symmetric_encryption_keys)
        )
        self._prefix = prefix
        options = dict(host)
        # The caller waits for one try. redis-py finds a broken connection before it uses it.
        retry = Retry(NoBackoff(), 0)
        self._redis = redis.Redis.from_url(options.pop("address"), retry=retry, **options)

    def group_send_now(self, group: str, message: Mapping[str, Any]) -> None:
        """Send to all subscribers of a group, and return once Redis has it. From any thread.

        Raises:
            OSError: it does not answer, or not soon enough.
        """
        # The name that channels_redis gives to a group; a test compares what both ways deliver.
        name = f"{self._prefix}__group__{group}"
        try:
            self._redis.publish(name, self.serialize(message))
        except redis.RedisError as error:
            raise OSError(f"Redis did not take a message ({type(error).__name__})") from error

    async def receive(self, channel: str) -> dict[str, Any]:
        """Return the next message of this installation; skip and log all others."""
        while True:
            try:
                message: dict[str, Any] = await self._get_layer().receive(channel)
            except _NotOurs:
                # Not one word of it: a stranger wrote it.
                logger.warning("a message in Redis is not from this installation, and is ignored")
                await asyncio.sleep(0)  # a flood of them must not keep the loop
            else:
                return message

    def deserialize(self, message: bytes) -> dict[str, Any]:
        try:
            found = super().deserialize(message)
        except Exception:  # the cipher's own, or any that msgpack has for odd bytes
            raise _NotOurs from None
        if not isinstance(found, dict):
            raise _NotOurs
        return found


class _NotOurs(Exception):
    """A message under no key of this installation."""
