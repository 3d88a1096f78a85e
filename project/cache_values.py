"""How values are stored in the cache: as JSON.

Django's own serializer for Redis pickles. A program that can write to Redis could store a pickle,
and the next process that reads it would run code from it. Reading JSON runs nothing.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["JsonValues"]


class JsonValues:
    """The serializer of Django's RedisCache: what JSON can't express is refused when it is stored.

    Integers are stored as they are, because ``incr()`` counts them in Redis. A tuple comes back as
    a list.
    """

    def dumps(self, value: Any) -> int | bytes:
        """Return what Redis stores.

        Raises:
            TypeError, ValueError: JSON has no such value; a float that is no number, say.
        """
        if type(value) is int:  # not bool
            return value
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

    def loads(self, stored: bytes) -> Any:
        """Return a value that Redis has stored.

        Raises:
            ValueError: it is no JSON: another program has written it.
        """
        try:
            return json.loads(stored)
        except RecursionError:
            raise ValueError("a value in the cache is nested too deeply") from None
