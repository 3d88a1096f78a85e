"""Report a run that blocks the agents' loop, in that run's own log."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from agents.guard import Guard
from runs.process import metrics

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.1
THRESHOLD_SECONDS = 0.5
PROMPT_SECONDS = 0.02
FRAME_COUNT = 4  # innermost lines of code that the report shows


class Watchdog:
    """Checks ten times a second that an event loop runs, while ``is_needed`` returns true.

    It reports a block after half a second, since the block may never end, and again with its length
    when it is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: threading.Thread,
        is_needed: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._is_needed = is_needed
        self._watched = thread
        self._end = threading.Event()
        self._unanswered_since: float | None = None
        self._asked_at: float | None = None  # while an answer is awaited
        self._blocking: Guard | None = None
        self._thread = threading.Thread(target=self._main, name="runs-watchdog", daemon=True)

    @property
    def blocked_seconds(self) -> float:
        """For how long the loop has not answered; 0 when it has."""
        since = self._unanswered_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def culprit(self) -> Guard | None:
        """Whose code keeps the loop from running, if any does, and if it is known."""
        return self._blocking

    @property
    def is_prompt(self) -> bool:
        """Whether the loop answers soon. A block is noticed after a tenth of a second."""
        asked = self._asked_at
        return asked is None or time.monotonic() - asked < PROMPT_SECONDS

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join(INTERVAL_SECONDS + THRESHOLD_SECONDS + 1)

    def _main(self) -> None:
        while not self._end.wait(INTERVAL_SECONDS):
            if not self._is_needed():
                continue
            answered = threading.Event()
            asked = self._asked_at = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:
                return  # the loop is closed
            if answered.wait(THRESHOLD_SECONDS) or self._end.is_set():
                self._asked_at = None
                continue
            self._unanswered_since = asked
            guard = self._blocking = self._culprit()
            self._report(guard, asked, is_over=False, where=self._where())
            metrics.LOOP_BLOCKS.inc()
            while not answered.wait(INTERVAL_SECONDS):
                if self._end.is_set():
                    return
                metrics.LOOP_BLOCKED_SECONDS.set(self.blocked_seconds)
            metrics.LOOP_BLOCKED_SECONDS.set(0)
            self._unanswered_since = self._asked_at = self._blocking = None
            self._report(guard, asked, is_over=True, where=[])

    def _culprit(self) -> Guard | None:
        task = asyncio.current_task(self._loop)
        return getattr(task, "guard", None)

    def _where(self) -> list[str]:
        frame = sys._current_frames().get(self._watched.ident or 0)
        if frame is None:
            return []
        stack = traceback.extract_stack(frame)[-FRAME_COUNT:]
        return [f"{Path(line.filename).name}:{line.lineno} in {line.name}" for line in stack]

    def _report(
        self, guard: Guard | None, asked: float, *, is_over: bool, where: list[str]
    ) -> None:
        blocked_ms = round((time.monotonic() - asked) * 1000)
        if guard is None:
            logger.warning("the agent loop is blocked, by no known run: %s", where)
            return
        data = {"blocked_ms": blocked_ms, "is_over": is_over, "where": where}
        guard.trace.emit("loop_blocked", data)
        if not is_over:
            run = guard.trace.run
            logger.warning("run %s blocks the agent loop", run, extra={"run": run})
