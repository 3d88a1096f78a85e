"""GET /runs leaves out what may have megabytes, and brings it within a bound when asked."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from runs.web.api.requests import page_bytes
from runs.wire import LARGE

pytestmark = pytest.mark.django_db


def _listed(api: APIClient, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/runs{query}")
    assert answer.status_code == 200, answer.content
    return list(answer.json()["results"])


def test_a_list_has_no_large_fields_and_does_not_read_them(api: APIClient, runs: Any) -> None:
    over = runs.success("done", text="hello")
    with CaptureQueriesContext(connection) as queries:
        (listed,) = _listed(api)
        asked = [one["sql"] for one in queries.captured_queries]
    whole = api.get(f"/runs/{over.pk}").json()
    assert (whole["input"], whole["result"]) == ({"text": "hello"}, "done")
    assert listed == {name: value for name, value in whole.items() if name not in LARGE}
    (read,) = [sql for sql in asked if "runs_runrecord" in sql]
    columns = read.partition(" FROM ")[0]
    assert '"result"' not in columns
    assert '"partial_result"' not in columns
    assert "runs_runinput" not in read


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("input", {"input"}),
        ("result", {"result", "partial_result"}),
        ("partial_result", {"partial_result"}),
        ("input,result", set(LARGE)),
        ("result, input", set(LARGE)),
    ],
)
def test_include_adds_them(api: APIClient, runs: Any, words: str, names: set[str]) -> None:
    run = runs.success({"deep": [1]}, text="hello")
    whole = api.get(f"/runs/{run.pk}").json()
    (listed,) = _listed(api, f"?include={words}")
    left_out = set(LARGE) - names
    assert listed == {name: value for name, value in whole.items() if name not in left_out}


@pytest.mark.parametrize("words", ["", "inputs", "input,", "input,error", "*", "INPUT"])
def test_an_unknown_word_is_400(api: APIClient, words: str) -> None:
    answer = api.get(f"/runs?include={words}")
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_filter"
    (message,) = answer.json()["fields"]["include"]
    assert message.endswith("There are: input, result, partial_result.")


def test_callers_in_a_list_cost_one_query_however_many(api: APIClient, runs: Any) -> None:
    for _ in range(2):
        runs.child_of(runs.running())
    with CaptureQueriesContext(connection) as queries:
        _listed(api, "?include=result")
    sums = [one["sql"] for one in queries.captured_queries if "SUM(llm_calls)" in one["sql"]]
    assert len(sums) == 1


def test_include_given_twice_is_400(api: APIClient) -> None:
    answer = api.get("/runs?include=input&include=result")
    assert answer.json()["fields"] == {"include": ["This is given more than once."]}


@pytest.mark.parametrize("is_backwards", [False, True])
def test_a_page_ends_early_and_the_next_one_goes_on(
    api: APIClient, runs: Any, monkeypatch: pytest.MonkeyPatch, is_backwards: bool
) -> None:
    monkeypatch.setattr(page_bytes, "MOST_PAGE_BYTES", 2_500)
    made = [str(runs.queued(text="ä" * 400).pk) for _ in range(7)][::-1]
    address = "/runs?include=input&page_size=5"
    sizes, found = [], []
    while address:
        page = api.get(address).json()
        sizes.append(len(page["results"]))
        found += [run["id"] for run in page["results"]]
        last, address = page, page["next"]
    assert found == made
    assert max(sizes) < 5
    if is_backwards:
        found = [run["id"] for run in last["results"]]
        while last["previous"]:
            last = api.get(last["previous"]).json()
            found = [run["id"] for run in last["results"]] + found
        assert found == made


def test_one_run_beyond_the_bound_comes_whole(
    api: APIClient, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_bytes, "MOST_PAGE_BYTES", 10)
    runs.queued(text="x" * 400)
    runs.queued(text="y" * 400)
    page = api.get("/runs?include=input").json()
    assert [run["input"]["text"] for run in page["results"]] == ["y" * 400]
    (older,) = api.get(page["next"]).json()["results"]
    assert older["input"]["text"] == "x" * 400


def test_a_page_of_large_events_ends_early(
    api: APIClient, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runs.web.api import views

    monkeypatch.setattr(views, "MOST_PAGE_BYTES", 2_000)
    run = runs.end(runs.tell(runs.running(), 250))
    seqs: list[int] = []
    for _ in range(300):
        page = api.get(f"/runs/{run.pk}/events?after={len(seqs)}&limit=10000").json()
        assert 1 <= len(page["results"]) < 20
        seqs += [event["seq"] for event in page["results"]]
        if page["ended"]:
            break
    assert seqs == list(range(1, run.last_seq + 1))
