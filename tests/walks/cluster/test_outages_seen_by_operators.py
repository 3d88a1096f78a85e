"""Health and metrics of real processes while PostgreSQL or Redis is away."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from runs.db.connecting import MOST_WAITING, PATIENCE_SECONDS
from tests.support.cluster import MakeCluster, Node, Web
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]


def _ready(url: str) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{url}/health/ready", timeout=20)
    return answer.status_code, answer.json()


def _reports(url: str, status: int, **checks: str) -> bool:
    code, answer = _ready(url)
    return code == status and checks.items() <= answer["checks"].items()


def _health_of(worker: Node) -> str:
    return worker.output.partition("health at ")[2].partition("/health/")[0]


def _refuses_at_once(web: Web) -> bool:
    started_at = time.monotonic()
    assert web.client.get("/runs").status_code == 503
    return time.monotonic() - started_at < PATIENCE_SECONDS / 2


@pytest.mark.thorough
def test_an_outage_is_reported_and_its_end_is_detected(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    (web,), (worker,) = cluster.launch(webs=1, workers=1)
    both = [web.url, _health_of(worker)]

    cluster.redis.stop()
    for url in both:
        eventually(lambda url=url: _reports(url, 200, cache="away", database="ok"))
        assert _ready(url)[1]["degraded"] is True
        assert httpx.get(f"{url}/health/live").status_code == 200
    run = web.start("site-trivial", number=4)  # no message can be sent, which the process detects
    assert web.until(run, "success")["result"] == 4
    cluster.redis.start()
    for url in both:
        eventually(lambda url=url: _reports(url, 200, cache="ok"))
    for node in (web, worker):  # it retries each second, and each attempt logs a traceback
        assert node.output.count("Unexpected exception in receive task") <= 1

    cluster.postgres.stop()
    late = cluster._worker({})  # a process that is started before its database
    for url in both:
        eventually(lambda url=url: _reports(url, 503, database="away"))
        assert httpx.get(f"{url}/health/live").status_code == 200
        scraped = httpx.get(f"{url}/metrics", timeout=20)
        assert scraped.status_code == 200
        assert "halting_database_up 0.0" in scraped.text
    eventually(lambda: "waiting for it" in late.output, "it logs what it waits for")
    assert "refused" in late.output
    # The outage is known by now, so no request waits as it does during a restart.
    eventually(lambda: _refuses_at_once(web), "a request is refused at once")
    # Longer than the pool's timeout: the process must find the database by itself.
    with ThreadPoolExecutor(MOST_WAITING) as threads:
        refused = list(threads.map(lambda _: _refuses_at_once(web), range(2 * MOST_WAITING)))
    assert all(refused)
    cluster.postgres.start()
    for url in both:
        eventually(lambda url=url: _reports(url, 200, database="ok"))
    # At once, and on a connection that the pool had before.
    assert web.client.get("/runs").status_code == 200
    late.until_ready()
    run = web.start("site-trivial", number=5)
    assert web.until(run, "success")["result"] == 5
