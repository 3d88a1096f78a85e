"""How many runs this process has room for: as many as it may have, or as the system lets it."""

from __future__ import annotations

import logging

from . import descriptors

__all__ = ["Room"]

logger = logging.getLogger(__name__)

AGAIN = 10  # runs for which there must be room before a shortage counts as over


class Room:
    """The room of one worker. Used by one thread.

    Args:
        most: ``RUNS_MAX_CONCURRENT``.

    Attributes:
        capacity: how many runs it takes at most.
        limited_by: what keeps it from more, for people; empty if nothing does.
    """

    def __init__(self, most: int) -> None:
        self._limit = descriptors.raise_limit()
        enough = descriptors.enough_for(self._limit, descriptors.open_count())
        self.capacity = max(1, min(most, enough))
        self._always = f"{self._limit:,} file descriptors" if self.capacity < most else ""
        self.limited_by = self._always
        if self._always:
            logger.warning(
                "takes %d runs at a time, not %d (RUNS_MAX_CONCURRENT): it may have no more than "
                "%s open. Raise that limit: LimitNOFILE=, ulimits: nofile, ulimit -n",
                self.capacity,
                most,
                self._always,
            )

    def left(self, taken: int) -> int:
        """Return how many runs fit in beside the ``taken`` that are here; ``limited_by`` follows.

        Descriptors are counted as they are open now: agents and visitors use as many as they like.
        """
        wanted = self.capacity - taken
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
        elif is_short and enough >= min(AGAIN, self.capacity):
            self.limited_by = self._always
            logger.info("takes runs again: %d of %d descriptors are open", used, self._limit)
        if not taken:
            return max(1, min(wanted, enough))  # else it would wait for what nobody gives back
        return min(wanted, enough)
