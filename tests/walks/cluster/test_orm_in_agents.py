"""Agents use the ORM in a process with a small pool, and PostgreSQL restarts meanwhile."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest

from tests.support.cluster import MakeCluster, Web
from tests.support.server import eventually
from tests.support.site.orm import ASYNC, SYNC

POOL = 12
RUNS = 30


@pytest.mark.thorough
def test_thirty_runs_leave_a_pool_of_twelve_as_it_was_and_survive_a_restart(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="15")
    web = cluster.web(RUNS_EMBEDDED_WORKER="1", DATABASE_POOL_SIZE=str(POOL))

    def succeed(runs: list[str]) -> None:
        for run in runs:
            record = web.until(run, "success", "error")
            told = "\n".join(str(event["data"]) for event in web.events(run))
            assert record["status"] == "success", told
            assert set(record["result"]) == {3}

    agents = [*(("site-orm-def", way) for way in SYNC), *(("site-orm", way) for way in ASYNC)]
    runs = [
        web.start(agent, ways=[way])
        for agent, way in itertools.islice(itertools.cycle(agents), RUNS)
    ]
    succeed(runs)
    unfinished = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%%'"
    )
    assert cluster.execute(unfinished) == [(0,)]
    for _ in range(POOL + 3):
        assert web.client.get("/runs").status_code == 200

    # Two runs go on across the restart; two come after it, to threads that have served before.
    signal = tmp_path / "again"
    everything = [("site-orm-def", list(SYNC)), ("site-orm", list(ASYNC))]
    runs = [web.start(agent, ways=ways, again_file=str(signal)) for agent, ways in everything]
    for run in runs:
        eventually(functools.partial(_has_logged, web, run), "it has counted")
    cluster.postgres.restart()
    signal.touch()
    succeed(runs + [web.start(agent, ways=ways) for agent, ways in everything])


def _has_logged(web: Web, run: str) -> bool:
    return any(event["data"].get("message") == "counted" for event in web.events(run))
