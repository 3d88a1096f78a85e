"""/metrics: the access to it, and the metrics of real processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from prometheus_client import REGISTRY as DEFAULT_REGISTRY
from prometheus_client import Counter, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from agents.cancellation import StopMode
from runs.actions import stopping
from runs.models import StopVia
from runs.ops import metrics_view
from runs.process.metrics import REGISTRY
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested
from tests.support.server import Installation, Server, eventually

TOKEN = "a token for Prometheus"


def _samples(text: str) -> dict[str, float]:
    """Map each sample, named as in a query, to its value."""
    return {
        sample.name
        + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.django_db(transaction=True)
class TestAccess:
    def test_without_a_token_set_it_is_not_found(self, client: Client, settings: Any) -> None:
        settings.METRICS_TOKEN, settings.DEBUG = "", False
        assert client.get("/metrics").status_code == 404
        settings.DEBUG = True
        assert client.get("/metrics").status_code == 200

    @pytest.mark.parametrize("debug", [True, False])
    def test_with_a_token_set_it_is_required(
        self, client: Client, settings: Any, debug: bool
    ) -> None:
        settings.METRICS_TOKEN, settings.DEBUG = TOKEN, debug
        for header in (None, "Bearer", "Bearer wrong", f"Token {TOKEN}", f"Bearer {TOKEN}x"):
            answer = client.get("/metrics", headers={"authorization": header} if header else {})
            assert answer.status_code == 401
            assert b"halting_" not in answer.content
        answer = client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        assert answer["Content-Type"].startswith("text/plain; version=")

    def test_without_a_database_a_scrape_has_the_other_metrics(
        self, client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse() -> None:
            raise OperationalError("away")

        settings.DEBUG = True
        monkeypatch.setattr(metrics_view, "_runs", refuse)
        monkeypatch.setattr(metrics_view, "FRESH_SECONDS", -1)
        samples = _samples(client.get("/metrics").content.decode())
        assert samples["halting_database_up"] == 0
        assert "halting_runs{status=queued}" not in samples
        assert "halting_runs_in_flight" in samples
        assert "process_open_fds" in samples


def test_every_series_exists_from_the_start(client: Client, settings: Any) -> None:
    settings.DEBUG = True
    there = set(_samples(client.get("/metrics").content.decode()))
    assert there > {
        "halting_lease_renewals_total{outcome=lost}",
        "halting_workers_reaped_total{reason=lease}",
        "halting_runs_recovered_total{outcome=error}",
        "halting_stop_seconds_count{agent=summarise}{until=acknowledged}",
        "halting_runs_finished_total{agent=summarise}{status=stopped}",
        "halting_calls_total{agent=summarise}{outcome=aborted}{tool=call_llm}",
        "halting_call_seconds_count{agent=summarise}{tool=agents.wait}",
        "halting_tokens_total{agent=summarise}{direction=output}{model=stand-in}",
        "halting_model_calls_total{model=stand-in}{outcome=ok}",
        "halting_model_seconds_count{model=stand-in}",
        "halting_loop_blocks_total",
        "halting_loop_blocked_seconds",
        "halting_stops_total{mode=graceful}",
        "halting_stops_total{mode=abort}",
        "halting_stops_total{mode=abandon}",
        "halting_calls_cut_total",
    }


@pytest.mark.django_db(transaction=True)
def test_stops_are_counted_by_the_rung_that_they_reached() -> None:
    owner = User.objects.create_user("alice")
    before = {mode: _count("halting_stops_total", mode=mode) for mode in StopMode}
    for mode in (StopMode.GRACEFUL, StopMode.ABORT, StopMode.ABORT):
        stopping.request_stop(make_run(owner).pk, via=StopVia.API, by=owner, mode=mode)
    run = make_run(owner, status=Status.RUNNING, worker=make_worker(), **requested(owner))
    stopping.request_stop(run.pk, via=StopVia.API, by=owner, mode=StopMode.ABANDON)
    after = {mode: _count("halting_stops_total", mode=mode) for mode in StopMode}
    counted = {mode.value: after[mode] - before[mode] for mode in StopMode}
    assert counted == {"graceful": 1, "abort": 2, "abandon": 1}


def _count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def _scrape(server: Server) -> dict[str, float]:
    answer = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    return _samples(answer.text)


@pytest.mark.slow
def test_each_process_counts_what_it_did(tmp_path: Path) -> None:
    site = Installation(
        tmp_path, RUNS_EMBEDDED_WORKER="0", METRICS_TOKEN=TOKEN, RUNS_LEASE_SECONDS="3"
    )
    with site.serving() as server:
        with site.working() as worker:
            trivial = server.start("site-trivial", number=1)
            server.until(trivial, "success")
            stopped, running, stopping = (
                server.start(f"site-{name}") for name in ("loop", "loop", "deaf")
            )
            for run in (stopped, running, stopping):
                server.until_it_works(run)
            server.client.post(f"/runs/{stopped}/stop")
            server.client.post(f"/runs/{stopping}/stop")
            server.until(stopped, "stopped")
            _check_worker(eventually(lambda: _renewed(_scrape(worker)), "its lease is renewed"))
            _check_site(_scrape(server))
            worker.kill()
        server.until(running, "error")
        server.until(stopping, "stopped")
        after = _scrape(server)
    assert after["halting_workers_reaped_total{reason=vanished}"] == 1
    assert after["halting_runs_recovered_total{outcome=error}"] == 1
    assert after["halting_runs_recovered_total{outcome=stopped}"] == 1
    assert after["halting_runs_finished_total{agent=site-loop}{status=error}"] == 1
    assert after["halting_stop_seconds_count{agent=site-deaf}{until=finished}"] == 1


def _renewed(samples: dict[str, float]) -> dict[str, float] | None:
    return samples if samples.get("halting_lease_renewals_total{outcome=ok}") else None


def _check_worker(of_worker: dict[str, float]) -> None:
    assert of_worker["halting_runs_claimed_total"] == 4
    assert of_worker["halting_queue_wait_seconds_count"] == 4
    assert of_worker["halting_start_seconds_count"] == 4
    assert of_worker["halting_runs_in_flight"] == 2
    assert of_worker["halting_runs_finished_total{agent=site-trivial}{status=success}"] == 1
    assert of_worker["halting_runs_finished_total{agent=site-loop}{status=stopped}"] == 1
    assert of_worker["halting_stops_total{mode=graceful}"] == 1
    for until in ("acknowledged", "observed", "finished"):
        of_stop = f"{{agent=site-loop}}{{until={until}}}"
        assert of_worker[f"halting_stop_seconds_count{of_stop}"] == 1
        assert of_worker[f"halting_stop_seconds_sum{of_stop}"] < 20
    assert of_worker["halting_events_written_total"] >= 8
    assert of_worker["halting_recorder_write_seconds_count"] >= 2
    assert of_worker["halting_claim_seconds_count"] >= 4
    assert of_worker["process_open_fds"] > 0


def _check_site(of_site: dict[str, float]) -> None:
    assert of_site["halting_runs_claimed_total"] == 0
    assert of_site["halting_runs{status=running}"] == 1
    assert of_site["halting_runs{status=stopping}"] == 1
    assert of_site["halting_runs{status=queued}"] == 0
    assert of_site["halting_workers{state=taking}"] == 1
    assert of_site["halting_feeds_open"] == 0
    assert of_site["halting_database_up"] == 1


class TestMetricsOfTheSite:
    @pytest.fixture(autouse=True)
    def debug(self, settings: Any) -> None:
        settings.DEBUG = True

    def test_those_of_agents_are_there_and_none_is_twice(self, client: Client) -> None:
        own = Counter("documents_read", "Counted by an agent.", ["kind"])
        try:
            own.labels("pdf").inc(3)
            text = client.get("/metrics").content.decode()
        finally:
            DEFAULT_REGISTRY.unregister(own)
        assert _samples(text)["documents_read_total{kind=pdf}"] == 3
        families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(families) == len(set(families))
        assert {"process_open_fds", "python_info", "halting_runs_in_flight"} < set(families)

    def test_one_that_fails_takes_no_other_with_it(self, client: Client) -> None:
        class Failing(Collector):
            def collect(self) -> Iterator[Metric]:
                raise RuntimeError("a collector of the site's")

            def describe(self) -> list[Metric]:
                return []

        failing = Failing()
        DEFAULT_REGISTRY.register(failing)
        try:
            samples = _samples(client.get("/metrics").content.decode())
        finally:
            DEFAULT_REGISTRY.unregister(failing)
        assert "halting_runs_in_flight" in samples
        assert "process_open_fds" in samples
