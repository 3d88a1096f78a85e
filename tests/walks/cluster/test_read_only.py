"""A PostgreSQL that only reads, as a standby does: readiness says so, until it writes again."""

from __future__ import annotations

import pytest

from tests.support.cluster import MakeCluster
from tests.support.server import Server, eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow, pytest.mark.thorough]


def _ready(server: Server) -> tuple[int, str]:
    answer = server.client.get("/health/ready")
    return answer.status_code, answer.json()["checks"]["database"]


def test_a_server_that_is_read_only_makes_each_process_unready(make_cluster: MakeCluster) -> None:
    """A web process too, which writes nothing by itself."""
    cluster = make_cluster()
    (web,), _ = cluster.launch(webs=1, workers=1)
    assert _ready(web) == (200, "ok")
    cluster.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        cluster.execute("SELECT pg_reload_conf()")
        eventually(lambda: _ready(web) == (503, "read-only"), "it is unready", 5)
        assert web.client.get("/runs").status_code == 200, "it can be read"
    finally:
        cluster.execute("ALTER SYSTEM RESET default_transaction_read_only")
        cluster.execute("SELECT pg_reload_conf()")
    eventually(lambda: _ready(web) == (200, "ok"), "it is ready again", 25)
