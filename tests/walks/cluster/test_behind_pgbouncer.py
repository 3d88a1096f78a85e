"""With PgBouncer, configured as in deploy/: each transaction may have another session."""

from __future__ import annotations

import pytest

from tests.support.audit import assert_books_balance
from tests.support.cluster import MakeCluster
from tests.support.server import eventually
from tests.support.services import PrivatePgBouncer

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]


def test_no_code_depends_on_a_session(
    make_cluster: MakeCluster, private_pgbouncer: PrivatePgBouncer
) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="15")
    cluster.environment["DATABASE_URL"] = private_pgbouncer.url(cluster.url.rpartition("/")[2])
    (web,), _ = cluster.launch(webs=1, workers=2)

    talker = web.start("witness-talker", pause=0.01)
    tree = web.start("site-relay", seconds=2.0)
    eventually(lambda: web.run(talker)["last_seq"] > 300, "it has logged for a while")
    # A reader of the log from its start now reads several pages of the table.
    headers = {"Accept": "text/event-stream"}
    with web.client.stream("GET", f"/runs/{talker}/events", headers=headers) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("id: "))
        seqs = [int(next(lines).removeprefix("id: ")) for _ in range(300)]
    assert seqs == list(range(1, 301))
    web.until(tree, "success")

    cluster.postgres.restart()
    asked = f"/runs/{talker}/stop"
    eventually(lambda: web.client.post(asked).status_code == 202, "the stop is accepted")
    web.until(talker, "stopped")
    cluster.until_quiet()
    assert_books_balance(cluster, started=[talker, tree], asked=[talker])
