"""Harder stops of runs in another process: frozen or not, with messages, without, without Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, MakeCluster, Web, Worker
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "leave"


# Without Redis and with lost messages, a worker hears of a stop by the same poll.
_BY_POLL = ("without Redis", "messages are lost")
_HOW = ["with Redis", *(pytest.param(how, marks=pytest.mark.thorough) for how in _BY_POLL)]


@pytest.fixture(scope="module", params=_HOW)
def cluster(request: pytest.FixtureRequest, make_module_cluster: MakeCluster) -> Iterator[Cluster]:
    given = {
        "with Redis": {},
        "messages are lost": {"LOST_MESSAGES": "1"},
        "without Redis": {"REDIS_URL": ""},
    }
    with make_module_cluster(**given[request.param]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Web:
    return cluster.web()


@pytest.fixture
def worker(cluster: Cluster) -> Worker:
    """The only worker: the one that an earlier test has left alive, or a new one."""
    alive = _workers(cluster)
    return alive[0] if alive else cluster.worker()


@pytest.fixture
def no_worker(cluster: Cluster) -> None:
    """The test starts its own."""
    for worker in _workers(cluster):
        worker.kill()


def _workers(cluster: Cluster) -> list[Worker]:
    return [node for node in cluster.nodes if isinstance(node, Worker) and node.is_alive]


def stop(web: Web, run: str, **body: Any) -> dict[str, Any]:
    answer = web.client.post(f"/runs/{run}/stop", json=body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def stuck(web: Web, file: Path, agent: str = "site-stuck") -> str:
    run = web.start(agent, path=str(file))
    eventually(lambda: any(e["type"] == "log" for e in web.events(run)), "it gets stuck")
    return run


def has_ended(web: Web, run: str) -> bool:
    return all(one["ended_at"] for one in web.run(run)["stop"]["left_behind"])


def running(web: Web, agent: str) -> list[dict[str, Any]]:
    answer = web.client.get(f"/runs?agent={agent}&status=running")
    return list(answer.json()["results"])


def modes(web: Web, run: str) -> list[str]:
    return [e["data"]["mode"] for e in web.events(run) if e["type"] == "stop_requested"]


def test_an_abort_reaches_a_run_that_was_asked_to_stop(
    web: Web, worker: Worker, file: Path
) -> None:
    run = stuck(web, file)
    stop(web, run)
    eventually(lambda: modes(web, run) == ["graceful"])
    stop(web, run, mode="abort")
    eventually(lambda: modes(web, run) == ["graceful", "abort"], "its worker hears of it", 1.5)
    file.touch()
    record = web.until(run, "stopped", "success")
    assert record["stop"]["mode"] == "abort"


def test_a_frozen_worker_can_t_keep_a_run_from_being_over(
    web: Web, worker: Worker, file: Path
) -> None:
    def thaw() -> None:
        worker.resume()
        file.touch()

    run = stuck(web, file)
    worker.pause()
    assert_over_before_its_code_leaves(web, run, file, thaw)


def test_c_code_that_lets_no_other_thread_run_can_t_either(
    web: Web, worker: Worker, file: Path
) -> None:
    os.mkfifo(file)
    run = stuck(web, file, "site-holds-the-interpreter")
    Path(f"{file}.go").touch()
    eventually(Path(f"{file}.held").exists, "it is about to call the C function")
    time.sleep(0.1)
    assert_over_before_its_code_leaves(web, run, file, lambda: file.write_bytes(b"x"))


def assert_over_before_its_code_leaves(
    web: Web, run: str, file: Path, release: Callable[[], object]
) -> None:
    """Give up on a run whose process can do nothing before ``release``."""
    began = time.monotonic()
    over = stop(web, run, mode="abandon")
    assert time.monotonic() - began < 1
    assert (over["status"], over["stop"]["abandoned"]) == ("stopped", True)
    before = web.run(run)
    events = web.events(run)
    assert not has_ended(web, run)
    release()
    eventually(Path(f"{file}.left").exists, "its code has left")
    eventually(lambda: has_ended(web, run), "its end is noted")
    after = web.run(run)
    left = after["stop"].pop("left_behind")
    assert datetime.fromisoformat(left[0]["ended_at"]) >= datetime.fromisoformat(left[0]["since"])
    before["stop"].pop("left_behind")
    assert after == before
    assert web.events(run) == events


def test_nothing_is_written_by_code_that_was_abandoned(
    cluster: Cluster, web: Web, worker: Worker, file: Path
) -> None:
    entries = "SELECT count(*) FROM runs_datastoreentry"
    before = cluster.execute(entries)
    run = stuck(web, file)
    stop(web, run, mode="abandon")
    file.touch()
    eventually(Path(f"{file}.left").exists, "its code has left")
    assert cluster.execute(entries) == before
    assert web.events(run)[-1]["type"] == "agent_end"


def test_the_end_of_a_worker_is_the_end_of_what_it_left(
    web: Web, worker: Worker, file: Path
) -> None:
    run = stuck(web, file)
    stop(web, run, mode="abandon")
    assert not has_ended(web, run)
    worker.kill()
    eventually(lambda: has_ended(web, run), "another process notes it", 20)


def test_a_plan_is_carried_out_though_the_worker_is_frozen(
    web: Web, worker: Worker, file: Path
) -> None:
    run = stuck(web, file)
    worker.pause()
    stop(web, run, abort_after=0.2, abandon_after=0.5)
    record = web.until(run, "stopped", within=4)
    worker.resume()
    receipt = record["stop"]
    assert (receipt["mode"], receipt["abandoned"]) == ("abandon", True)
    assert (receipt["requested_by"], receipt["escalated_by"]) == ("demo", None)
    late = datetime.fromisoformat(receipt["escalated_at"]) - datetime.fromisoformat(
        receipt["abandon_at"]
    )
    assert 0 <= late.total_seconds() < 2.5
    file.touch()


@pytest.mark.usefixtures("no_worker")
def test_a_caller_on_another_worker_goes_on_at_once(cluster: Cluster, web: Web, file: Path) -> None:
    for _ in range(2):
        cluster.worker(RUNS_MAX_CONCURRENT="1")
    run = web.start("site-starts-stuck", path=str(file))
    [child] = eventually(lambda: running(web, "site-stuck"), "the other worker claims it")
    assert child["worker"] != web.run(run)["worker"]
    began = time.monotonic()
    stop(web, child["id"], mode="abandon")
    assert web.until(run, "success")["result"] == "went on"
    assert time.monotonic() - began < 2
    file.touch()
    for worker in _workers(cluster):  # the next test's has room for more
        worker.kill()


@pytest.mark.parametrize("cluster", ["with Redis"], indirect=True)  # messages change nothing here
@pytest.mark.usefixtures("no_worker")
def test_a_process_that_abandoned_code_blocks_is_replaced(
    cluster: Cluster, web: Web, file: Path
) -> None:
    worker = cluster.worker(RUNS_REPLACE_WHEN_BLOCKED_SECONDS="1")
    run = stuck(web, file, "site-stuck-on-the-loop")
    # Until then the worker takes its loop for prompt, and a run begins with its claim.
    eventually(lambda: "blocks the agent loop" in worker.output, "the loop is seen to be blocked")
    other = web.start("site-trivial")
    stop(web, run, mode="abandon")
    worker.wait(40)
    assert "abandoned code blocks the agents' loop" in worker.output
    cluster.worker()
    web.until(other, "success")
    eventually(lambda: has_ended(web, run))
