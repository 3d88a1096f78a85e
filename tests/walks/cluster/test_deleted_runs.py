"""A user is deleted in one process, while a worker elsewhere executes the user's runs."""

from __future__ import annotations

import time

import pytest

from tests.support.cluster import Cluster, MakeCluster
from tests.support.processes import start_manage
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow, pytest.mark.thorough]

_DELETE = """
import time
from django.contrib.auth.models import User
User.objects.get(username="demo").delete()
print("deleted at", time.time())
"""


@pytest.mark.parametrize("has_messages", [True, False], ids=["message", "no message"])
def test_code_of_a_deleted_user_s_runs_stops_within_a_second(
    make_cluster: MakeCluster, has_messages: bool
) -> None:
    cluster = make_cluster()
    (web,), (worker,) = cluster.launch(webs=1, workers=1)
    runs = {web.start("witness-quiet") for _ in range(5)}
    cluster.eventually(lambda: _at_work(cluster) == runs, "all are at work")
    deleted_at = _delete_demo(cluster, **({} if has_messages else {"REDIS_URL": ""}))
    # Half a second is the worker's pause between two looks.
    bound = deleted_at + (0.3 if has_messages else 1.0)

    def is_silent() -> bool:
        return time.time() - cluster.witnesses()[-1]["at"] > 0.5

    eventually(is_silent, "all have stopped")
    assert _at_work(cluster) == runs, "no other run was started in their place"
    assert max(line["at"] for line in cluster.witnesses()) < bound
    assert cluster.statuses() == {}
    stops = "SELECT count(*) FROM identity_auditentry WHERE act = 'stop'"
    assert cluster.execute(stops) == [(5,)]
    assert worker.errors() == []


def _at_work(cluster: Cluster) -> set[str]:
    return {line["run"] for line in cluster.witnesses() if line["word"] == "step"}


def _delete_demo(cluster: Cluster, **environment: str) -> float:
    """Delete the user in a process of its own; return when that was committed."""
    log = cluster.folder / "shell.log"
    with log.open("wb") as out:
        process = start_manage(
            "shell", "-c", _DELETE, environment=cluster.environment | environment, stdout=out
        )
    assert process.wait(60) == 0, log.read_text()
    return float(log.read_text().rpartition("deleted at ")[2])
