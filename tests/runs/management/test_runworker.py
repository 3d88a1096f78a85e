"""`manage.py runworker`, as real processes: beside a site that has no worker, and refusing."""

from __future__ import annotations

import os
import re
import secrets
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

from tests.support.databases import new_database
from tests.support.processes import run_manage
from tests.support.server import Installation, Server, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Installation:
    return Installation(tmp_path, RUNS_EMBEDDED_WORKER="0", RUNS_DRAIN_SECONDS="60")


def _refusal(*arguments: str, **environment: str) -> str:
    """Call a runworker that is to refuse, and return what it says."""
    done = run_manage("runworker", *arguments, environment=os.environ | environment)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_site_without_a_worker_queues_and_a_worker_runs(site: Installation) -> None:
    with site.serving() as server:
        assert server.client.get("/app/", follow_redirects=True).status_code == 200
        run = server.start("site-trivial", number=3)
        checks = server.client.get("/health/ready").json()["checks"]
        assert server.run(run)["status"] == "queued"
        assert checks["worker"] == "none"
        with site.working("--max-concurrent", "7") as worker:
            said = worker.output
            engine = connection.display_name
            assert re.search(rf"Worker \S+:\d+ takes up to 7 runs \(database {engine}", said)
            has_redis = bool(os.environ.get("REDIS_URL"))
            assert ("polls for new runs and stops" in said) is not has_redis
            assert server.until(run, "success")["result"] == 3
            loop = server.start("site-loop")
            server.until_it_works(loop)
            assert server.client.post(f"/runs/{loop}/stop").status_code == 202
            stopped = server.until(loop, "stopped")
            assert stopped["stop"]["calls_started_after_acknowledgement"] == 0


def _unready(worker: Server) -> dict[str, Any] | None:
    answer = worker.client.get("/health/ready")
    return dict(answer.json()) if answer.status_code == 503 else None


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_drains_and_leaves_in_order(site: Installation, sig: signal.Signals) -> None:
    with site.serving() as server, site.working() as worker:
        run = server.start("site-loop")
        server.until_it_works(run)
        worker.process.send_signal(sig)
        answer = eventually(lambda: _unready(worker), "it says that it drains")
        assert answer["checks"]["worker"] == "draining"
        queued = server.start("site-trivial", number=1)
        assert server.client.post(f"/runs/{run}/stop").status_code == 202
        assert worker.process.wait(40) == 0, worker.output
        assert server.run(run)["status"] == "stopped"
        assert server.run(queued)["status"] == "queued"
    assert "Traceback" not in worker.output


def test_it_serves_its_health_by_any_name_and_nothing_else(site: Installation) -> None:
    with site.working(DJANGO_DEBUG="0", DJANGO_SECRET_KEY=secrets.token_urlsafe(50)) as worker:
        headers = {"Host": "elsewhere.example.org"}
        assert httpx.get(f"{worker.url}/health/live", headers=headers).json()["status"] == "alive"
        ready = httpx.get(f"{worker.url}/health/ready", headers=headers)
        assert (ready.status_code, ready.json()["checks"]["worker"]) == (200, "ok")
        for path in ("/", "/runs", "/app/", "/admin/", "/accounts/login/"):
            assert httpx.get(f"{worker.url}{path}", headers=headers).status_code == 404


def test_it_refuses_a_database_without_tables(tmp_path: Path) -> None:
    database = new_database(tmp_path / "empty.sqlite3")
    said = _refusal(DATABASE_URL=database.url, DJANGO_DEBUG="1")
    assert "manage.py migrate" in said


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {"DJANGO_DEBUG": "0", "DJANGO_SECRET_KEY": ""}, "DJANGO_SECRET_KEY"),
        ([], {"RUNS_LEASE_SECONDS": "0.1"}, "RUNS_LEASE_SECONDS"),
        ([], {"RUNS_MAX_CONCURRENT": "many"}, "RUNS_MAX_CONCURRENT"),
        (["--max-concurrent", "0"], {}, "at least 1"),
        (["--listen", "nowhere"], {}, "not a valid port"),
        (["agents", "channel"], {}, "unrecognized arguments"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], environment: dict[str, str], expected: str, site: Installation
) -> None:
    given = {"DATABASE_URL": site.database.url, "DJANGO_DEBUG": "1", **environment}
    assert expected in _refusal(*arguments, **given)
