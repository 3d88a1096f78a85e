"""The counters and histograms of this process, for Prometheus (``runs.ops.metrics_view``).

Only the process that does something counts it: the writer of an ending, the worker that claims. An
increment takes about a microsecond. This module knows no record, so every layer can use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache, partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from . import labels

__all__ = [
    "CLAIM_SECONDS",
    "EVENTS",
    "LEASE_RENEWALS",
    "LOOP_BLOCKED_SECONDS",
    "LOOP_BLOCKS",
    "RECORDER_EVENTS",
    "RECORDER_SECONDS",
    "REGISTRY",
    "RUNS_CLAIMED",
    "RUNS_RECOVERED",
    "WORKERS_REAPED",
    "begin_at_zero",
    "count_call",
    "count_end",
    "count_stop",
    "observe_claim",
    "observe_start",
    "observe_stop",
]

REGISTRY = CollectorRegistry()
# It would add a series for each, with the time at which the process started.
disable_created_metrics()  # type: ignore[no-untyped-call]

_MOMENTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_STOPS_TAKE = (0.005, 0.025, 0.1, 0.25, 1, 2.5, 5, 10, 30, 60, 300)
_CALLS_TAKE = (0.01, 0.1, 1, 10, 60)
_MODELS_TAKE = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)

_counter = partial(Counter, registry=REGISTRY)
_histogram = partial(Histogram, registry=REGISTRY)

RUNS_CLAIMED = _counter("halting_runs_claimed", "Runs taken from the queue by this process.")
_RUNS_FINISHED = _counter(
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
    ["agent", "until"],
    buckets=_STOPS_TAKE,
)

_STOPS = _counter(
    "halting_stops",
    "Runs whose ending this process wrote after a stop was asked for, by the rung that the stop "
    "had reached.",
    ["mode"],
)
LOOP_BLOCKS = _counter(
    "halting_loop_blocks", "Times that the agents' loop of this process was blocked: half a second."
)
LOOP_BLOCKED_SECONDS = Gauge(
    "halting_loop_blocked_seconds",
    "For how long the agents' loop of this process has been blocked; 0 when it is not.",
    registry=REGISTRY,
)
_CALLS = _counter(
    "halting_calls", "Guarded calls that have ended in this process.", ["agent", "tool", "outcome"]
)
_CALL = _histogram(
    "halting_call_seconds", "How long guarded calls took.", ["agent", "tool"], buckets=_CALLS_TAKE
)
_MODEL_CALLS = _counter("halting_model_calls", "Calls to models.", ["model", "outcome"])
_MODEL = _histogram(
    "halting_model_seconds", "How long calls to models took.", ["model"], buckets=_MODELS_TAKE
)
# Beside the tokens is the place for what they cost: ``count_call`` has the model and both counts.
_TOKENS = _counter(
    "halting_tokens",
    "Tokens that calls to models took, as reported, else as estimated.",
    ["agent", "model", "direction"],
)
_CALLS_CUT = _counter("halting_calls_cut", "Calls in flight that stops by abort have cut.")

# Create every series at 0: increase() misses the first increment of a series that did not exist.
# ``begin_at_zero`` does it for those that name an agent.
for _metric, _values in (
    (LEASE_RENEWALS, ("ok", "failed", "lost")),
    (WORKERS_REAPED, ("lease", "vanished")),
    (RUNS_RECOVERED, ("queued", "stopped", "error")),
    (_STOPS, ("graceful", "abort", "abandon")),
):
    for _value in _values:
        _metric.labels(_value)


_zeroed: set[tuple[str, str]] = set()


def begin_at_zero(agents: Iterable[str], model: str) -> None:
    """Create the series of these agents, and of the default model, as far as there are none."""
    default = labels.model(model, has_replied=True) if model else labels.OTHER
    for outcome in labels.OUTCOMES:
        for name in {default, labels.OTHER}:
            _MODEL_CALLS.labels(name, outcome)
            _MODEL.labels(name)
    for name in (*agents, labels.OTHER):
        if (name, default) in _zeroed:
            continue
        _zeroed.add((name, default))
        for status in ("success", "error", "stopped"):
            _RUNS_FINISHED.labels(status, name)
        for until in ("acknowledged", "observed", "finished"):
            _STOP.labels(name, until)
        for tool in labels.TOOLS:
            _CALL.labels(name, tool)
            for outcome in labels.OUTCOMES:
                _CALLS.labels(name, tool, outcome)
        for direction in ("input", "output"):
            _TOKENS.labels(name, default, direction)


def count_call(agent: str, data: Mapping[str, Any]) -> None:
    """Count a call that has ended; ``data`` is that of its event."""
    name, tool = labels.agent(agent), labels.tool(data["tool"])
    outcome, seconds = data["outcome"], data["duration_ms"] / 1000
    counter, histogram = _of_calls(name, tool, outcome)
    counter.inc()
    histogram.observe(seconds)
    if tool == "call_llm":
        has_replied = "input_tokens" in data
        model = labels.model(data["label"], has_replied=has_replied)
        _MODEL_CALLS.labels(model, outcome).inc()
        _MODEL.labels(model).observe(seconds)
        if has_replied:
            _TOKENS.labels(name, model, "input").inc(data["input_tokens"])
            _TOKENS.labels(name, model, "output").inc(data["output_tokens"])


@cache
def _of_calls(agent: str, tool: str, outcome: str) -> tuple[Counter, Histogram]:
    """Return the series of such calls; finding them takes longer than an increment."""
    return _CALLS.labels(agent, tool, outcome), _CALL.labels(agent, tool)


def count_end(agent: str, status: str) -> None:
    """Count the end of a run."""
    _RUNS_FINISHED.labels(status, labels.agent(agent)).inc()


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
    agent: str,
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
            _STOP.labels(labels.agent(agent), until).observe(_seconds(requested_at, at))


def _seconds(since: datetime, until: datetime) -> float:
    """Return the seconds between two instants; at least 0, as the clocks of two hosts differ."""
    return max(0.0, (until - since).total_seconds())
