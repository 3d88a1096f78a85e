"""Signals of runs, for the site's own code.

Each is sent once for each change, after its commit, in the process that has made it: a worker has
claimed the run, another process has ended it. So connect receivers where every process does it, in
the ``ready()`` of an app. A process that is killed between the commit and the signal sends none:
what must not be missed, the site finds in the records.

The receivers of a process are called one after the other, in a thread of their own that holds no
lock and no transaction (``runs.signals.receivers``). So a slow receiver delays only other
receivers. An error of a receiver is logged. The sender is ``RunRecord``.

``run`` is the record as the change has left it. Some of its fields may be read when they are used,
and are as they are then.
"""

from __future__ import annotations

from typing import Any

from django.dispatch import Signal

__all__ = ["run_finished", "run_started", "stop_requested"]


class _Signal(Signal):
    def _log_robust_failure(self, receiver: Any, err: Exception) -> None:
        """Leave it to ``runs.signals.receivers``, which knows the run."""


#: A worker has claimed a run: ``run``, ``attempt``. A run that is queued again because its worker
#: was lost is claimed again, and its next ``attempt`` is a start of its own.
run_started = _Signal()

#: A run is over: ``run``, ``status`` (``success``, ``error`` or ``stopped``). Also one that has
#: never started. After that nothing of the run changes but what an abandoned one has left behind.
run_finished = _Signal()

#: A run was asked to stop, or to stop harder: ``run``, ``stop`` (a ``StopRequest``: mode, reason,
#: via, requested_by, requested_at and more). Runs below have a signal of their own.
stop_requested = _Signal()
