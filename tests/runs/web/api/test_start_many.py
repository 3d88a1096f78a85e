"""POST /runs/batch."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.actions.starting import MOST_STARTS
from runs.models import RunRecord

pytestmark = pytest.mark.django_db


def _post(api: APIClient, *runs: Any, **more: Any) -> Any:
    return api.post("/runs/batch", {"runs": list(runs), **more})


ECHO = {"agent": "echo", "input": {"text": "ho"}}


@pytest.mark.parametrize("path", ["/runs/batch", "/runs/batch/"])
def test_each_is_started_and_found_by_its_id(api: APIClient, alice: User, path: str) -> None:
    response = api.post(path, {"runs": [ECHO, {"agent": "anything", "priority": -1}]})
    assert response.status_code == 200
    answer = response.json()
    assert answer["counts"] == {"started": 2, "known": 0, "refused": 0}
    assert [set(one) for one in answer["outcomes"]] == [{"outcome", "id"}] * 2
    runs = [api.get(f"/runs/{one['id']}").json() for one in answer["outcomes"]]
    assert [(run["agent"], run["input"], run["priority"]) for run in runs] == [
        ("echo", {"text": "ho"}, 0),
        ("anything", {}, -1),
    ]
    assert {run["owner"] for run in runs} == {"alice"}


def test_what_is_refused_has_the_error_that_a_start_alone_would_have(api: APIClient) -> None:
    bad = [
        {"agent": "nobody", "input": {}},
        {"agent": "strict", "input": {"documents": 3}},
        {"agent": "echo", "input": {"text": "ho"}, "priority": 100},
        {"agent": "echo", "limits": {"deadline_seconds": "soon"}},
    ]
    alone = [api.post("/runs", body) for body in bad[:3]]
    assert [one.status_code for one in alone] == [400, 400, 403]
    answer = _post(api, ECHO, *bad[:3], ECHO).json()
    assert answer["counts"] == {"started": 2, "known": 0, "refused": 3}
    started, *refused, last = answer["outcomes"]
    assert (started["outcome"], last["outcome"]) == ("started", "started")
    assert [one["error"] for one in refused] == [one.json() for one in alone]
    assert RunRecord.objects.count() == 2


def test_keys_are_those_of_the_header(api: APIClient) -> None:
    first = api.post("/runs", ECHO, headers={"Idempotency-Key": "k"}).json()["id"]
    other = {"agent": "echo", "input": {"text": "other"}, "idempotency_key": "k"}
    answer = _post(api, {**ECHO, "idempotency_key": "k"}, other).json()
    same, mismatch = answer["outcomes"]
    assert same == {"outcome": "known", "id": first}
    assert mismatch["error"]["code"] == "idempotency_mismatch"
    assert answer["counts"] == {"started": 0, "known": 1, "refused": 1}


def test_a_quota_refuses_the_rest_and_says_so(api: APIClient, options: Any) -> None:
    options(MAX_QUEUED_PER_OWNER=2)
    answer = _post(api, ECHO, ECHO, ECHO).json()
    assert [one["outcome"] for one in answer["outcomes"]] == ["started", "started", "refused"]
    error = answer["outcomes"][2]["error"]
    assert (error["code"], error["used"], error["allowed"]) == ("quota_queued", 2, 2)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"runs"}),
        ({"runs": []}, {"runs"}),
        ({"runs": {}}, {"runs"}),
        ({"runs": [1]}, {"runs.0"}),
        ({"runs": [ECHO, {"input": {}}]}, {"runs.1.agent"}),
        ({"runs": [ECHO, {**ECHO, "idempotency_key": ""}]}, {"runs.1.idempotency_key"}),
        ({"runs": [ECHO, {**ECHO, "wait": True}]}, {"runs.1.wait"}),
        ({"runs": [{**ECHO, "limits": {"idle_seconds": "x"}}]}, {"runs.0.limits.idle_seconds"}),
        ({"runs": [ECHO], "agent": "echo"}, {"agent"}),
        ({"runs": [ECHO] * (MOST_STARTS + 1)}, {"runs"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, set) else "",
)
def test_a_body_of_another_shape_starts_nothing(
    body: Any, fields: set[str], api: APIClient
) -> None:
    response = api.post("/runs/batch", body)
    assert response.status_code == 400
    assert set(response.json()["fields"]) == fields
    assert not RunRecord.objects.exists()


def test_a_thousand_are_taken(api: APIClient) -> None:
    answer = _post(api, *[ECHO] * MOST_STARTS).json()
    assert answer["counts"]["started"] == MOST_STARTS


@pytest.mark.usefixtures("agents")
def test_nobody_starts_nothing() -> None:
    client = APIClient()
    client.default_format = "json"
    assert _post(client, ECHO).status_code == 401
