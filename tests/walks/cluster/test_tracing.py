"""One trace over processes: a request, the web process, two workers, and a server outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, MakeCluster
from tests.support.page_server import PageServer

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"


@pytest.fixture
def traced(make_cluster: MakeCluster, tmp_path: Path) -> Cluster:
    (tmp_path / "spans.jsonl").touch()
    return make_cluster(
        SPANS_FILE=str(tmp_path / "spans.jsonl"),
        RUNS_MAX_CONCURRENT="1",  # so that the child of a run has another worker
        RUNS_TRACEPARENT_HOSTS="127.0.0.1",
    )


def test_a_request_is_followed_over_two_workers(traced: Cluster) -> None:
    (web,), workers = traced.launch(webs=1, workers=2)
    with PageServer({"/": ({}, b"hello")}) as server:
        started = web.client.post(
            "/runs",
            json={"agent": "site-tracing", "input": {"url": server.url}},
            headers={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"},
        )
        run = started.json()["id"]
        assert web.until(run, "success", "error")["result"] == 200
        names = ("invoke_agent site-tracing", "invoke_agent site-visiting")
        traced.eventually(lambda: len(_spans(traced, *names)) == 2, "two runs have spans")
        sent = next(line for line in server.requests[0].splitlines() if "traceparent" in line)
    above, below = _spans(traced, *names)
    assert above["parent_id"] == f"0x{CLIENT_SPAN}"
    assert below["parent_id"] == above["context"]["span_id"]
    assert sent.split()[-1].split("-")[1:3] == [TRACE, below["context"]["span_id"][2:]]
    assert {span["context"]["trace_id"] for span in _all_spans(traced)} == {f"0x{TRACE}"}
    pids = [span["resource"]["attributes"]["process.pid"] for span in (above, below)]
    assert set(pids) == {worker.pid for worker in workers}
    (call,) = _spans(traced, "execute_tool http")
    assert call["parent_id"] == below["context"]["span_id"]
    assert below["attributes"]["halting.run.root_id"] == run


def test_a_run_of_a_killed_worker_goes_on_in_the_same_trace(traced: Cluster) -> None:
    (web,), (first,) = traced.launch(webs=1, workers=1)
    run = web.client.post(
        "/runs",
        json={"agent": "site-again", "input": {"key": "k"}},
        headers={"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"},
    ).json()["id"]
    web.until_it_has_called(run, "data_store.set")
    first.kill()
    traced.worker()
    assert web.until(run, "success", "error")["result"] == "second attempt"
    traced.eventually(lambda: _spans(traced, "invoke_agent site-again"), "it has a span")
    (attempt,) = _spans(traced, "invoke_agent site-again")  # the first one died with its worker
    assert attempt["attributes"]["halting.run.attempt"] == 2
    assert attempt["context"]["trace_id"] == f"0x{TRACE}"
    assert attempt["parent_id"] == f"0x{CLIENT_SPAN}"
    calls = {
        span["attributes"]["gen_ai.tool.name"]
        for span in _all_spans(traced)
        if span["name"].startswith("execute_tool")
    }
    assert calls == {"data_store.get", "data_store.set"}, "those of the first one were exported"


def _spans(cluster: Cluster, *names: str) -> list[dict[str, Any]]:
    """Return the spans with these names, in the order of the names."""
    found = _all_spans(cluster)
    return [span for name in names for span in found if span["name"] == name]


def _all_spans(cluster: Cluster) -> list[dict[str, Any]]:
    lines = Path(cluster.environment["SPANS_FILE"]).read_text().splitlines()
    return [json.loads(line) for line in lines]
