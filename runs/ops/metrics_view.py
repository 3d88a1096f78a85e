"""GET /metrics, for Prometheus: the counters of this process, and counts of the records.

The answer names agents and how much they are used, and each scrape queries the database. So it
requires ``Authorization: Bearer`` with METRICS_TOKEN. Outside debug, without a token set, the
answer is 404.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db.models import Count, Min
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY as DEFAULT_REGISTRY
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from agents import registry
from agents.tools.llm.stand_in import STAND_IN
from runs.conf import conf
from runs.db.alias import connection
from runs.delivery import feeds, local_runs, relay
from runs.models import RunRecord, WorkerRecord
from runs.process.metrics import REGISTRY, begin_at_zero
from runs.status import STOPPING, Status
from runs.web import feed

from .probing import ask

__all__ = ["metrics"]

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0  # for the database; Prometheus waits ten for a scrape
FRESH_SECONDS = 5.0  # how long an answer is reused


@login_not_required
@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape."""
    token = conf().metrics_token
    if not token and not settings.DEBUG:
        raise Http404
    if token and not _is_permitted(request, token):
        return HttpResponse(
            "Send METRICS_TOKEN as a bearer token.\n",
            status=401,
            content_type="text/plain",
            headers={"WWW-Authenticate": "Bearer"},
        )
    names = [definition.name for definition in registry.all()]
    begin_at_zero(names, STAND_IN if conf().llm.is_stand_in else conf().llm.model)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return HttpResponse(encode(REGISTRY), content_type=content_type)


def _is_permitted(request: HttpRequest, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and constant_time_compare(given, token)


class _Process(Collector):
    """The state of this process, read at each scrape."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "halting_runs_in_flight", "Runs that this process executes.", len(local_runs.all_runs())
        )
        yield GaugeMetricFamily(
            "halting_runs_abandoned_here",
            "Abandoned runs whose code is still in this process.",
            len(local_runs.abandoned()),
        )
        yield GaugeMetricFamily(
            "halting_feeds_open",
            "Sockets and event streams of readers of this process.",
            feed.open_count(),
        )
        yield GaugeMetricFamily(
            "halting_requests_waiting",
            "Requests of this process that wait for the end of a run.",
            feed.waiting_count(),
        )
        yield GaugeMetricFamily(
            "halting_feeds_unsent_bytes",
            "What the readers of this process have not read yet.",
            feed.unsent_bytes(),
        )
        yield CounterMetricFamily(
            "halting_messages_dropped",
            "Messages and updates that did not reach other processes, which poll instead.",
            relay.outbox.dropped_count + feeds.sender.dropped_count,
        )


class _AgentsOwn(Collector):
    """The metrics that the site's code, agents among it, has in prometheus_client's own registry.

    Without those of the process: this registry has them, too.
    """

    def collect(self) -> Iterator[Metric]:
        ours = {metric.name for collector in _OF_PROCESS for metric in collector.collect()}
        try:
            theirs = list(DEFAULT_REGISTRY.collect())
        except Exception as error:  # of a collector of the site's
            logger.warning("the site's own metrics can't be read (%r)", error)
            return
        yield from (metric for metric in theirs if metric.name not in ours)


class _Records(Collector):
    """Counts of the records: equal in each process, so aggregate them with ``max``."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._metrics: list[Metric] = []

    def collect(self) -> Iterator[Metric]:
        is_up = True
        try:
            yield from ask(self._read, ANSWER_SECONDS)
        except Exception as error:  # each database has errors of its own
            logger.warning("the records can't be counted (%r)", error)
            is_up = False
        yield GaugeMetricFamily("halting_database_up", "Whether the database answered.", is_up)

    def _read(self) -> Iterable[Metric]:
        now = time.monotonic()
        if now - self._read_at > FRESH_SECONDS:
            try:
                self._metrics = [*_runs(), _workers()]
            finally:
                connection.close()
            self._read_at = now
        return self._metrics


def _runs() -> Iterator[Metric]:
    # One query for each status, so that each uses the partial index of its rows.
    queued = RunRecord.objects.filter(status=Status.QUEUED).order_by()
    waiting = queued.aggregate(count=Count("pk"), oldest=Min("created_at"))
    running = RunRecord.objects.filter(status=Status.RUNNING).order_by()
    working = running.aggregate(count=Count("pk"), stopping=Count("stop_requested_at"))
    runs = GaugeMetricFamily("halting_runs", "Runs that are not over.", labels=["status"])
    runs.add_metric([Status.QUEUED.value], waiting["count"])
    runs.add_metric([Status.RUNNING.value], working["count"] - working["stopping"])
    runs.add_metric([STOPPING], working["stopping"])
    yield runs
    oldest = waiting["oldest"]
    yield GaugeMetricFamily(
        "halting_queue_oldest_seconds",
        "How long the oldest queued run has been waiting.",
        0 if oldest is None else max(0.0, (timezone.now() - oldest).total_seconds()),
    )


def _workers() -> Metric:
    workers = GaugeMetricFamily("halting_workers", "Workers that are alive.", labels=["state"])
    there = WorkerRecord.objects.filter(lost_at=None).order_by()
    counts = there.aggregate(count=Count("pk"), draining=Count("draining_at"))
    workers.add_metric(["taking"], counts["count"] - counts["draining"])
    workers.add_metric(["draining"], counts["draining"])
    return workers


_OF_PROCESS: list[Collector] = [
    ProcessCollector(registry=REGISTRY),
    PlatformCollector(registry=REGISTRY),
    GCCollector(registry=REGISTRY),
]
REGISTRY.register(_Process())
REGISTRY.register(_Records())
REGISTRY.register(_AgentsOwn())
