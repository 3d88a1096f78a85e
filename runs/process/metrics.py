"""The counters and histograms of this process, for Prometheus (``runs.ops.metrics_view``).

Only the process that does something counts it: the writer of an ending, the worker that claims. An
increment takes about a microsecond. This module knows no record, so every layer can use it.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

__all__ = [
    "CLAIM_SECONDS",
    "EVENTS",
    "LEASE_RENEWALS",
    "RECORDER_EVENTS",
    "RECORDER_SECONDS",
    "REGISTRY",
    "RUNS_CLAIMED",
    "RUNS_FINISHED",
    "RUNS_RECOVERED",
    "WORKERS_REAPED",
    "count_stop",
    "observe_claim",
    "observe_start",
    "observe_stop",
]

REGISTRY = CollectorRegistry()
# It would add a series for each, with the time at which the process started.
disable_created_metrics()  # type: ignore[no-untyped-call]

_MOMENTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)

_counter = partial(Counter, registry=REGISTRY)
_histogram = partial(Histogram, registry=REGISTRY)

RUNS_CLAIMED = _counter("halting_runs_claimed", "Runs taken from the queue by this process.")
RUNS_FINISHED = _counter(
    "halting_runs_finished", "Runs whose ending this process wrote.", ["status", "agent"]
)
RUNS_RECOVERED = _counter(
    "halting_runs_recovered",
    "Runs of lost workers that this process recovered; queued ones were requeued.",
    ["outcome"],
)
# lease: it ran out; vanished: the process on this host is gone
WORKERS_REAPED = _counter(
    "halting_workers_reaped", "Workers that this process declared lost.", ["reason"]
)
# lost: another worker took its runs over; failed: no answer of the database
LEASE_RENEWALS = _counter(
    "halting_lease_renewals", "Attempts to renew the lease of this process's worker.", ["outcome"]
)
EVENTS = _counter("halting_events_written", "Events that this process committed.")
CLAIM_SECONDS = _histogram(
    "halting_claim_seconds", "How long a poll of the queue took, with the claims.", buckets=_MOMENTS
)
RECORDER_EVENTS = _histogram(
    "halting_recorder_batch_events", "Events in one transaction of the recorder.", buckets=_COUNTS
)
RECORDER_SECONDS = _histogram(
    "halting_recorder_write_seconds",
    "How long a transaction of the recorder took, with its retries.",
    buckets=_MOMENTS,
)
_QUEUE_WAIT = _histogram(
    "halting_queue_wait_seconds", "From the creation of a run to its first claim.", buckets=_WAITS
)
_START = _histogram(
    "halting_start_seconds", "From the creation of a run to its first execution.", buckets=_WAITS
)
_STOP = _histogram(
    "halting_stop_seconds",
    "From the request of a stop until the token is tripped (acknowledged), the agent observes it, "
    "the run ends (finished). Of runs that were being executed.",
    ["until"],
    buckets=_MOMENTS,
)

_STOPS = _counter(
    "halting_stops",
    "Runs whose ending this process wrote after a stop was asked for, by the rung that the stop "
    "had reached.",
    ["mode"],
)
_CALLS_CUT = _counter("halting_calls_cut", "Calls in flight that stops by abort have cut.")

# Create every series at 0: increase() misses the first increment of a series that did not exist.
for _metric, _values in (
    (LEASE_RENEWALS, ("ok", "failed", "lost")),
    (WORKERS_REAPED, ("lease", "vanished")),
    (RUNS_RECOVERED, ("queued", "stopped", "error")),
    (_STOP, ("acknowledged", "observed", "finished")),
    (_STOPS, ("graceful", "abort", "abandon")),
):
    for _value in _values:
        _metric.labels(_value)


def observe_claim(created_at: datetime, started_at: datetime | None, attempt: int) -> None:
    """Measure how long a run waited in the queue, unless it was requeued meanwhile."""
    RUNS_CLAIMED.inc()
    if attempt == 1 and started_at is not None:
        _QUEUE_WAIT.observe(_seconds(created_at, started_at))


def observe_start(created_at: datetime, now: datetime, attempt: int) -> None:
    """Measure how long a run waited until its execution, which starts ``now``."""
    if attempt == 1:
        _START.observe(_seconds(created_at, now))


def count_stop(mode: str, *, calls_cut: int = 0) -> None:
    """Count the end of a run that was asked to stop, under the last rung of its stop."""
    _STOPS.labels(mode).inc()
    _CALLS_CUT.inc(calls_cut)


def observe_stop(
    requested_at: datetime,
    *,
    acknowledged_at: datetime | None,
    observed_at: datetime | None,
    finished_at: datetime | None,
) -> None:
    """Measure how long a stop took, at the end of its run."""
    instants = {"acknowledged": acknowledged_at, "observed": observed_at, "finished": finished_at}
    for until, at in instants.items():
        if at is not None:
            _STOP.labels(until).observe(_seconds(requested_at, at))


def _seconds(since: datetime, until: datetime) -> float:
    """Return the seconds between two instants; at least 0, as the clocks of two hosts differ."""
    return max(0.0, (until - since).total_seconds())
