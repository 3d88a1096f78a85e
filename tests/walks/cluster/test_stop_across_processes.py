"""A stop that one process requests reaches the run in another, with and without a message."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.support.cluster import MakeCluster, Web

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

COUNT = 5


def test_a_stop_with_a_message_does_not_wait_for_a_poll(make_cluster: MakeCluster) -> None:
    """The worker polls only every five seconds."""
    cluster = make_cluster(POLL_SECONDS="5", RUNS_LEASE_SECONDS="30")
    (web,), _ = cluster.launch(webs=1, workers=1)
    took = sorted(_seconds_to_acknowledge(web) for _ in range(COUNT))
    assert took[COUNT // 2] < 0.5, took
    assert took[-1] < 1.5, took


def test_a_stop_without_a_message_is_found_within_a_second_and_a_half(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    web = cluster.web(LOST_MESSAGES="1")  # all of its messages to others are lost
    cluster.worker()
    took = [_seconds_to_acknowledge(web) for _ in range(COUNT)]
    assert max(took) < 1.5, took


def _seconds_to_acknowledge(web: Web) -> float:
    run = web.start("site-loop")
    web.until_it_works(run)
    assert web.client.post(f"/runs/{run}/stop").status_code == 202
    stop = web.until(run, "stopped")["stop"]
    at = [datetime.fromisoformat(stop[name]) for name in ("requested_at", "acknowledged_at")]
    return (at[1] - at[0]).total_seconds()
