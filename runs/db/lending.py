"""Which connections a request gets, and when it gives its connection back.

All requests of a process share one pool of connections. When slow or many requests hold all of
them, a stop would wait, and fail after seconds, while its run goes on. So stops have a few
connections of their own, which are open from the start.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections

from runs.db.alias import alias, connection

__all__ = [
    "STOPS",
    "STOPS_OF_MANY",
    "Reserve",
    "close_reserves",
    "open_reserves",
    "release_connection",
]

logger = logging.getLogger(__name__)


class Reserve:
    """A few connections to PostgreSQL for one kind of request; on SQLite it does nothing.

    It is another pool of the same database, and not an entry of DATABASES: migrations and tests
    need not know it.

    Args:
        name: of the pool, and of its connections in Django.
        count: how many connections it has.
        is_last_resort: lend one only when the ordinary pool has none left. Otherwise an ordinary
            one is the second choice.
    """

    def __init__(self, name: str, count: int, *, is_last_resort: bool = False) -> None:
        self.name = name
        self.count = count
        self._is_last_resort = is_last_resort
        self._settings: dict[str, Any] | None = None

    def open(self) -> None:
        """Open the connections, in the background. Before, ``lend`` changes nothing."""
        default = connections[alias()]
        options = default.settings_dict["OPTIONS"].get("pool")
        if default.vendor != "postgresql" or not options:
            return
        pool = {**options, "min_size": self.count, "max_size": self.count, "name": self.name}
        # It shortens the wait of the pool that it is called for; ours has the wait of the other.
        pool.pop("reconnect_failed", None)
        whole = {**default.settings_dict["OPTIONS"], "pool": pool}
        self._settings = {**default.settings_dict, "OPTIONS": whole}
        self._wrapper().pool.open()

    def close(self) -> None:
        """Close the connections. May be repeated."""
        if self._settings is not None:
            wrapper, self._settings = self._wrapper(), None
            wrapper.close_pool()

    def lend(self) -> None:
        """Let the rest of the request in this thread use a connection of the reserve.

        The request must have a thread of its own (``runs.asgi.handler``), and no connection yet.
        """
        if self._settings is None:
            return
        wrapper = self._wrapper()
        ordinary = getattr(connections[alias()], "pool")  # noqa: B009 - of PostgreSQL
        own = wrapper.pool
        is_ordinary = _has_free(ordinary) and (self._is_last_resort or not _has_free(own))
        if is_ordinary:
            return
        own.timeout, own.max_waiting = ordinary.timeout, ordinary.max_waiting
        # By its own name, too: model instances keep the name of the connection that read them.
        connections[alias()] = connections[self.name] = wrapper

    def _wrapper(self) -> Any:
        assert self._settings is not None
        return type(connections[alias()])(self._settings, self.name)


#: For the stops of one run; each takes some milliseconds.
STOPS = Reserve("stops", 3)
#: For the stops of many runs, which take seconds: a stop of one run must not wait for them.
STOPS_OF_MANY = Reserve("stops-of-many", 1, is_last_resort=True)


def _has_free(pool: Any) -> bool:
    stats = pool.get_stats()
    is_full = stats["pool_available"] == 0 and stats["pool_size"] >= stats["pool_max"]
    return not is_full and not stats["requests_waiting"]


def open_reserves() -> None:
    for reserve in (STOPS, STOPS_OF_MANY):
        reserve.open()


def close_reserves() -> None:
    for reserve in (STOPS, STOPS_OF_MANY):
        reserve.close()


def release_connection() -> None:
    """Give back the connection of this thread before a long wait; not within a transaction."""
    if not connection.in_atomic_block:
        connection.close()
