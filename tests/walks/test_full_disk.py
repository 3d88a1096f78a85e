"""A database that can be read and not written: readiness says so, until it can be written again."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from django.db import connection

from tests.support.server import Installation, Server, eventually

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def _ready(server: Server) -> tuple[int, str]:
    answer = server.client.get("/health/ready")
    return answer.status_code, answer.json()["checks"]["database"]


@pytest.mark.parametrize("has_run", [False, True], ids=["idle", "with a run"])
def test_a_file_that_can_t_grow_makes_a_server_unready(tmp_path: Path, has_run: bool) -> None:
    if connection.vendor != "sqlite":
        return  # PostgreSQL: cluster/test_read_only.py
    site = Installation(tmp_path, RUNS_LEASE_SECONDS="6")
    with site.serving() as server:
        if has_run:
            server.until_it_works(server.start("site-loop"))
        assert _ready(server) == (200, "ok")
        before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        log = tmp_path / "db.sqlite3-wal"  # grows with each write: it is far from its first reset
        now = (log.stat().st_size, before[1])
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, now)
        # Only the heartbeat writes, after a third of a lease.
        within = 1.5 if has_run else 3.5
        eventually(lambda: _ready(server) == (503, "failing"), "it is unready", within)
        assert server.client.get("/runs").status_code == 200, "it can be read"
        assert server.client.post("/runs", json={"agent": "site-trivial"}).status_code == 503

        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
        eventually(lambda: _ready(server) == (200, "ok"), "it is ready again", 25)
        server.until(server.start("site-trivial", number=1), "success")
