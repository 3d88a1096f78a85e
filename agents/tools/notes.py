"""The agent's own log lines and progress, and what is left of its limits.

Not guarded: a ``finally`` may use them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ..guard import Guard

__all__ = ["Notes", "Remaining"]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of a run's limits; None where there is no limit.

    Attributes:
        seconds: until the deadline; 0 from then on.
        tokens, cost, calls: of budgets.
    """

    seconds: float | None = None
    tokens: int | None = None
    cost: int | None = None
    calls: int | None = None


class Notes:
    """The part of the tools that is the same for ``async def`` and ``def`` agents."""

    def __init__(self, guard: Guard) -> None:
        self._token = guard.token
        self._trace = guard.trace

    def log(self, message: object, level: str = "info") -> None:
        """Write a line to the run's log; ``level`` is debug, info, warning, error or critical."""
        level = str(level).lower()
        if level not in LOG_LEVELS:
            raise ValueError(f"level is one of {', '.join(LOG_LEVELS)}, not {level!r}")
        self._trace.emit("log", {"level": level, "message": message}, source="agent")

    def progress(self, done: float, total: float | None, message: str = "") -> None:
        """Report that ``done`` of ``total`` parts are done; ``total`` is None if not known."""
        data = {"done": done, "total": total, "message": message}
        self._trace.emit("progress", data, source="agent")

    def remaining(self) -> Remaining:
        """Return what is left of this run's limits: ``tools.remaining().seconds``."""
        left = self._token.deadline - time.monotonic()
        return Remaining(seconds=None if left == math.inf else max(0.0, left))
