"""Stops of all rungs, of runs that leave work of all kinds behind, on two workers.

The witness is a file that the work itself writes to. No run may be over before the last word of its
work, unless its receipt says that it was abandoned, and names what was left behind.
``STOPS=10000`` stops more.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from datetime import datetime
from typing import Any

import pytest

from tests.support.cluster import Cluster, MakeCluster, Web
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

STOPS = int(os.environ.get("STOPS", "24"))
AT_A_TIME = 12
KINDS = ("thread", "task", "process", "generator", "child")
RUNGS: tuple[dict[str, Any], ...] = (
    {},
    {"mode": "abort"},
    {"mode": "abandon"},
    {"abort_after": 0.1},
    {"abort_after": 0, "abandon_after": 0.2},
)


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    return make_cluster(RUNS_MAX_INPUT_BYTES="100000")


def test_no_run_is_over_before_its_last_word(cluster: Cluster) -> None:
    seed = random.randrange(1_000_000)
    chance = random.Random(seed)
    [web], _ = cluster.launch(webs=1, workers=2)
    runs: list[str] = []
    for start in range(0, STOPS, AT_A_TIME):
        few = [
            web.start("witness-leaves-work", kinds=chance.sample(KINDS, chance.randrange(0, 5)))
            for _ in range(min(AT_A_TIME, STOPS - start))
        ]
        cluster.eventually(lambda few=few: _at_work(cluster) >= set(few), "all are at work")  # type: ignore[misc]
        for run in few:
            answer = web.client.post(f"/runs/{run}/stop", json=chance.choice(RUNGS))
            assert answer.status_code == 202, answer.text
        runs += few
        cluster.until_quiet()
    eventually(lambda: not _left_open(cluster, web, runs), "all that was left behind has ended")
    words: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in cluster.witnesses():
        words[line["run"]].append(line)
    abandoned = 0
    for run, lines in words.items():
        record = web.run(run)
        receipt = record["stop"] or {"abandoned": False, "finished_first": True}
        # A child that only computes may finish before it meets its stop.
        assert (record["status"] == "success") == receipt["finished_first"], (seed, record)
        assert record["status"] in ("stopped", "success"), (seed, record)
        over = datetime.fromisoformat(record["finished_at"]).timestamp()
        late = [line for line in lines if line["at"] > over]
        if not receipt["abandoned"]:
            assert not late, (seed, record, lines)
            assert _kinds(lines, "begins") <= _kinds(lines, "leaves"), (seed, record, lines)
            continue
        abandoned += 1
        left = receipt["left_behind"]
        assert left, (seed, record)
        if late:
            last = max(line["at"] for line in late)
            ended = max(datetime.fromisoformat(one["ended_at"]).timestamp() for one in left)
            assert ended >= last, (seed, record, late)
    assert len(words) >= STOPS
    assert abandoned or STOPS < 48


def _at_work(cluster: Cluster) -> set[str]:
    return {line["run"] for line in cluster.witnesses() if line["word"] == "works"}


def _kinds(lines: list[dict[str, Any]], word: str) -> set[str]:
    return {line["kind"] for line in lines if line["word"] == word}


def _left_open(cluster: Cluster, web: Web, runs: list[str]) -> list[str]:
    open_ones = []
    for run in runs:
        left = web.run(run)["stop"]["left_behind"]
        if any(one["ended_at"] is None for one in left):
            open_ones.append(run)
    return open_ones
