"""GET /runs/<id>/events."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from runs.models import RunEvent, RunRecord

pytestmark = pytest.mark.django_db


def test_a_run_without_events(api: APIClient, runs: Any) -> None:
    run = runs.queued()
    for path in (f"/runs/{run.pk}/events", f"/runs/{run.pk}/events/"):
        answer = api.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"results": [], "last_seq": 0, "ended": False}


def test_events_look_as_the_contract_says(api: APIClient, runs: Any) -> None:
    run = runs.tell(runs.running(), 1)
    event = RunEvent.objects.get(run=run)
    assert api.get(f"/runs/{run.pk}/events").json()["results"] == [
        {
            "run": str(run.pk),
            "seq": 1,
            "ts": event.ts.isoformat(),
            "type": "log",
            "agent": "echo",
            "depth": 0,
            "source": "agent",
            "data": {"level": "info", "message": "line 1"},
        }
    ]


def test_pages_follow_each_other_until_the_end(api: APIClient, runs: Any) -> None:
    run = runs.end(runs.tell(runs.running(), 6))
    seen: list[int] = []
    while True:
        after = seen[-1] if seen else 0
        page = api.get(f"/runs/{run.pk}/events?after={after}&limit=3").json()
        seen += [event["seq"] for event in page["results"]]
        assert page["last_seq"] == 7
        if page["ended"]:
            break
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert page["results"][-1]["type"] == "agent_end"


def test_a_page_that_ends_with_the_run_says_so(api: APIClient, runs: Any) -> None:
    run = runs.end(runs.tell(runs.running(), 3))
    ended = {
        after: api.get(f"/runs/{run.pk}/events?after={after}&limit=2").json()["ended"]
        for after in (0, 1, 2, 4, 99, 10**40)
    }
    assert ended == {0: False, 1: False, 2: True, 4: True, 99: True, 10**40: True}


def test_a_run_that_goes_on_never_says_ended(api: APIClient, runs: Any) -> None:
    run = runs.tell(runs.running(), 3)
    assert not api.get(f"/runs/{run.pk}/events").json()["ended"]
    assert not api.get(f"/runs/{run.pk}/events?after=3").json()["ended"]


def test_a_queued_run_that_was_stopped_has_ended(api: APIClient, runs: Any) -> None:
    run = runs.queued()
    api.post(f"/runs/{run.pk}/stop")
    page = api.get(f"/runs/{run.pk}/events").json()
    assert [event["type"] for event in page["results"]] == ["stop_requested", "agent_end"]
    assert (page["last_seq"], page["ended"]) == (2, True)


def test_five_hundred_unless_asked_otherwise(api: APIClient, runs: Any) -> None:
    run = runs.tell(runs.running(), 502)
    assert len(api.get(f"/runs/{run.pk}/events").json()["results"]) == 500
    assert len(api.get(f"/runs/{run.pk}/events?limit=100000000000").json()["results"]) == 502


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=-1", "after"),
        ("after=x", "after"),
        ("after=", "after"),
        ("after=1.0", "after"),
        ("after=%00", "after"),
        ("limit=0", "limit"),
        ("limit=-5", "limit"),
        ("limit=all", "limit"),
        ("after=1&after=2", "after"),
        ("since=1", "since"),
    ],
)
def test_a_wrong_parameter_is_named(api: APIClient, runs: Any, query: str, field: str) -> None:
    response = api.get(f"/runs/{runs.queued().pk}/events?{query}")
    assert response.status_code == 400
    assert response.json()["code"] == "invalid_filter"
    assert response.json()["fields"].keys() == {field}


def test_what_is_neither_json_nor_a_stream_is_not_acceptable(api: APIClient, runs: Any) -> None:
    response = api.get(f"/runs/{runs.queued().pk}/events", HTTP_ACCEPT="text/csv")
    assert response.status_code == 406
    assert response.json()["code"] == "not_acceptable"


def test_a_log_that_was_removed_has_an_end(api: APIClient, runs: Any) -> None:
    run = runs.end(runs.tell(runs.running(), 2))
    at = timezone.now()
    RunEvent.objects.filter(run=run).delete()
    RunRecord.objects.filter(pk=run.pk).update(log_removed_at=at)
    for after in (0, 2, 3, 99):
        answer = api.get(f"/runs/{run.pk}/events?after={after}")
        assert answer.json() == {"results": [], "last_seq": 3, "ended": True}
    assert api.get(f"/runs/{run.pk}").json()["log_removed_at"] == at.isoformat()
