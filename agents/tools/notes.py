"""What an agent says of itself: its log and its progress. Not guarded: a ``finally`` may use it."""

from __future__ import annotations

from ..trace import Trace

__all__ = ["Notes"]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class Notes:
    """The part of the tools that both kinds of agents use in the same way."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def log(self, message: object, level: str = "info") -> None:
        """Write a line to the run's log.

        ``level`` is one of debug, info, warning, error, critical.
        """
        level = str(level).lower()
        if level not in LOG_LEVELS:
            raise ValueError(f"level is one of {', '.join(LOG_LEVELS)}, not {level!r}")
        self._trace.emit("log", {"level": level, "message": message}, source="agent")

    def progress(self, done: float, total: float | None, message: str = "") -> None:
        """Report how far the run is: ``done`` of ``total`` parts (total None: not known)."""
        data = {"done": done, "total": total, "message": message}
        self._trace.emit("progress", data, source="agent")
