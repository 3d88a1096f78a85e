"""How many runs this process can take: as many as the setting and its descriptors allow."""

from __future__ import annotations

import logging

from . import descriptors

__all__ = ["Capacity"]

logger = logging.getLogger(__name__)

AGAIN = 10  # runs that must fit before a shortage is over


class Capacity:
    """The capacity of one worker. Used by one thread.

    Args:
        most: ``RUNS_MAX_CONCURRENT``.

    Attributes:
        total: how many runs it takes at most.
        limited_by: why it takes no more, as text for people; empty if nothing limits it.
    """

    def __init__(self, most: int) -> None:
        self._limit = descriptors.raise_limit()
        enough = descriptors.enough_for(self._limit, descriptors.open_count())
        self.total = max(1, min(most, enough))
        self._always = f"{self._limit:,} file descriptors" if self.total < most else ""
        self.limited_by = self._always
        if self._always:
            logger.warning(
                "takes %d runs at a time, not %d (RUNS_MAX_CONCURRENT): it may have no more than "
                "%s open. Raise that limit: LimitNOFILE=, ulimits: nofile, ulimit -n",
                self.total,
                most,
                self._always,
            )

    def left(self, taken: int) -> int:
        """Return how many more runs fit, with ``taken`` here; update ``limited_by``.

        Counts the descriptors that are open now: agents and requests open any number of them.
        """
        wanted = self.total - taken
        if wanted <= 0:
            return 0
        used = descriptors.open_count()
        enough = descriptors.enough_for(self._limit, used)
        is_short = self.limited_by != self._always
        if not enough and not is_short:
            self.limited_by = f"{self._limit:,} file descriptors, nearly all of them in use"
            logger.warning(
                "takes no more runs for now: %d of %d file descriptors are open", used, self._limit
            )
        elif is_short and enough >= min(AGAIN, self.total):
            self.limited_by = self._always
            logger.info("takes runs again: %d of %d descriptors are open", used, self._limit)
        if not taken:
            # At least one: without runs no descriptor would be closed, and it would wait for ever.
            return max(1, min(wanted, enough))
        return min(wanted, enough)
