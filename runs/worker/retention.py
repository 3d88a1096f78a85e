"""Remove runs and logs that are older than the settings allow, as steps of a worker's reaper."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.utils import timezone

from runs.conf import conf
from runs.ops.retention import Policy, Position, Sweep

__all__ = ["MOST_SHARE", "REST_SECONDS", "Retention"]

logger = logging.getLogger(__name__)

MOST_SHARE = 0.2  # at most this share of the time goes into steps
REST_SECONDS = 600.0  # between two sweeps


class Retention:
    """Applies ``RUNS_KEEP_DAYS`` and ``RUNS_KEEP_LOGS_DAYS``, one sweep after another."""

    def __init__(self) -> None:
        self._resume: dict[str, Position | None] = {}
        self._sweeps: list[Sweep] = []

    def tick(self) -> bool:
        """Do a step of 100 trees at most; return False if nothing is left for now.

        Raises:
            django.db.Error: the database failed or refused.
        """
        if not self._sweeps:
            self._sweeps = [Sweep(policy, is_alone=True) for policy in _policies()]
            for sweep in self._sweeps:
                sweep.position = self._resume.get(sweep.policy.what)
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
