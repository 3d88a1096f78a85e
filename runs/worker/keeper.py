"""Removes what is older than the settings allow, now and then, beside the work of a worker."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from django.db import connection, reset_queries
from django.utils import timezone

from runs.conf import conf
from runs.ops.retention import Policy, Position, Sweep

__all__ = ["Keeper", "RetentionThread"]

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2  # between two steps
MOST_SHARE = 0.2  # of the time at most it is at work
REST_SECONDS = 600.0  # between two sweeps


class Keeper:
    """Keeps to ``RUNS_KEEP_DAYS`` and ``RUNS_KEEP_LOGS_DAYS``, sweep behind sweep."""

    def __init__(self) -> None:
        self._resume: dict[str, Position | None] = {}
        self._sweeps: list[Sweep] = []

    def tick(self) -> bool:
        """Do a step; False when there is nothing more to do for a while.

        Raises:
            django.db.Error: whatever the database has to say.
        """
        if not self._sweeps:
            self._sweeps = [Sweep(policy, is_alone=True) for policy in _policies()]
            for sweep in self._sweeps:
                sweep.position = sweep.resume = self._resume.get(sweep.policy.what)
        if not self._sweeps:
            return False
        sweep = self._sweeps[0]
        if not sweep.step():
            self._resume[sweep.policy.what] = sweep.resume
            self._sweeps.pop(0)
            _report(sweep)
        return bool(self._sweeps)


def _policies() -> list[Policy]:
    options, now = conf(), timezone.now()
    policies = []
    if options.keep_days:
        policies.append(Policy("runs", now - timedelta(days=options.keep_days)))
    if options.keep_logs_days:
        policies.append(Policy("logs", now - timedelta(days=options.keep_logs_days)))
    return policies


def _report(sweep: Sweep) -> None:
    removed = sweep.removed
    if removed.events or removed.trees:
        logger.info(
            "removed %d events%s that were too old",
            removed.events,
            f" and {removed.runs} runs" if sweep.policy.what == "runs" else "",
        )


class RetentionThread:
    """A keeper in a thread of its own, so that no heart has to wait for it."""

    def __init__(self) -> None:
        self._keeper = Keeper()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runs-retention", daemon=True)

    def start(self) -> None:
        """Begin, unless everything is kept for ever."""
        if _policies():
            self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _main(self) -> None:
        pause = PAUSE_SECONDS
        while not self._closing.wait(pause):
            began = time.monotonic()
            try:
                is_more = self._keeper.tick()
            except Exception as error:  # whatever it is, it can wait
                logger.warning("old runs can't be removed (%s), later again", type(error).__name__)
                is_more = False
                connection.close()
            reset_queries()
            busy = time.monotonic() - began
            pause = max(PAUSE_SECONDS, busy / MOST_SHARE) if is_more else REST_SECONDS
        connection.close()
