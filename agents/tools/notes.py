"""The agent's own log lines and progress. Not guarded: a ``finally`` may use them."""

from __future__ import annotations

from ..trace import Trace

__all__ = ["Notes"]

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class Notes:
    """The part of the tools that is the same for ``async def`` and ``def`` agents."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

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
