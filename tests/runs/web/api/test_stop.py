"""POST /runs/<id>/stop and POST /runs/stop."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.actions import stopping
from runs.delivery import ends, local_runs
from runs.models import RunRecord
from runs.web.api import stop_views
from runs.web.api.requests import inputs
from tests.support.running import in_thread

pytestmark = pytest.mark.django_db


class TestStop:
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_a_queued_run_is_stopped_when_the_answer_leaves(
        self, api: APIClient, runs: Any, slash: str
    ) -> None:
        run = runs.queued()
        response = api.post(f"/runs/{run.pk}/stop{slash}")
        assert response.status_code == 202
        assert response.json()["status"] == "stopped"
        assert response.json()["stop"]["requested_by"] == "alice"
        assert RunRecord.objects.get(pk=run.pk).status == "stopped"

    @pytest.mark.django_db(transaction=True)
    def test_the_token_is_tripped_before_the_202_leaves(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        response = api.post(f"/runs/{run.pk}/stop", {"reason": "enough", "mode": "graceful"})
        assert response.status_code == 202
        answer = response.json()
        assert answer["status"] == "stopping"
        assert answer["stop"]["reason"] == "enough"
        assert answer["stop"]["via"] == "api"
        token = runs.entry(run).token
        assert (token.stopped, token.reason) == (True, "enough")

    def test_a_second_stop_is_202_and_changes_neither_requester_nor_reason(
        self, api: APIClient, runs: Any, operator: User, client_of: Callable[[User], APIClient]
    ) -> None:
        run = runs.running()
        first = api.post(f"/runs/{run.pk}/stop", {"reason": "first"})
        second = client_of(operator).post(f"/runs/{run.pk}/stop", {"reason": "second"})
        assert second.status_code == 202
        assert second.json()["stop"] == first.json()["stop"]

    def test_a_run_that_is_over_is_409_with_the_run(self, api: APIClient, runs: Any) -> None:
        run = runs.success("result")
        response = api.post(f"/runs/{run.pk}/stop?wait=5")
        assert response.status_code == 409
        answer = response.json()
        assert answer["code"] == "run_already_finished"
        whole = api.get(f"/runs/{run.pk}").json()
        assert whole["result"] == "result"
        large = {"input", "result", "partial_result"}
        assert answer["run"] == {name: whole[name] for name in whole.keys() - large}

    def test_a_child_may_be_stopped_alone(self, api: APIClient, runs: Any) -> None:
        root = runs.running()
        child = runs.child_of(root)
        assert api.post(f"/runs/{child.pk}/stop").json()["status"] == "stopping"
        assert api.get(f"/runs/{root.pk}").json()["status"] == "running"

    def test_a_cascaded_stop_keeps_the_person_and_the_reason(
        self, api: APIClient, runs: Any
    ) -> None:
        root = runs.running()
        child = runs.child_of(root)
        api.post(f"/runs/{root.pk}/stop", {"reason": "why"})
        stop = api.get(f"/runs/{child.pk}").json()["stop"]
        assert (stop["via"], stop["requested_by"], stop["reason"], stop["root_request"]) == (
            "parent", "alice", "why", str(root.pk),
        )  # fmt: skip

    @pytest.mark.parametrize(
        "body",
        [{}, {"mode": None, "reason": None}, {"reason": ""}, {"mode": "graceful"},
         {"reason": "ü" * 500}],
        ids=str,
    )  # fmt: skip
    def test_what_may_be_in_the_body(self, api: APIClient, runs: Any, body: Any) -> None:
        response = api.post(f"/runs/{runs.queued().pk}/stop", body)
        assert response.status_code == 202
        assert response.json()["stop"]["mode"] == "graceful"
        assert response.json()["stop"]["reason"] == (body.get("reason") or "")

    @pytest.mark.parametrize(
        "content_type",
        [None, "application/json", "application/x-www-form-urlencoded", "multipart/form-data", "x"],
    )
    def test_the_body_may_be_missing_whatever_its_type(
        self, api: APIClient, runs: Any, content_type: str | None
    ) -> None:
        path = f"/runs/{runs.queued().pk}/stop"
        extra = {} if content_type is None else {"CONTENT_TYPE": content_type}
        assert api.generic("POST", path, b"", content_type="", **extra).status_code == 202

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "x" * 501}, "reason"),
            ({"reason": 5}, "reason"),
            ({"reason": True}, "reason"),
            ({"reason": ["x"]}, "reason.0"),
            ({"reason": "a\0"}, "reason"),
            ({"mode": "gently"}, "mode"),
            ({"mode": ""}, "mode"),
            ({"mode": 1}, "mode"),
            ({"mode": {"a": []}}, "mode"),
            ({"why": "x"}, "why"),
            ({"input": {}}, "input"),
            ({"wait": 5}, "wait"),
        ],
        ids=str,
    )
    def test_what_may_not_be_in_the_body(
        self, api: APIClient, runs: Any, body: Any, field: str
    ) -> None:
        run = runs.queued()
        response = api.post(f"/runs/{run.pk}/stop", body)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_input"
        assert response.json()["fields"].keys() == {field.removesuffix(".0")}
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    def test_runs_of_others_are_404_and_stay_as_they_are(
        self, api: APIClient, runs: Any, bob: User
    ) -> None:
        run = runs.queued(owner=bob)
        assert api.post(f"/runs/{run.pk}/stop").status_code == 404
        assert api.post(f"/runs/{uuid.uuid4()}/stop").status_code == 404
        assert api.post("/runs/nonsense/stop").status_code == 404
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    def test_one_who_may_see_but_not_stop_is_403(
        self, client_of: Callable[[User], APIClient], viewer: User, runs: Any
    ) -> None:
        run = runs.queued()
        response = client_of(viewer).post(f"/runs/{run.pk}/stop")
        assert response.status_code == 403
        assert response.json()["code"] == "permission_denied"
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    def test_an_operator_stops_runs_of_others(
        self, client_of: Callable[[User], APIClient], operator: User, runs: Any
    ) -> None:
        response = client_of(operator).post(f"/runs/{runs.queued().pk}/stop")
        assert response.status_code == 202
        assert response.json()["owner"] == "alice"
        assert response.json()["stop"]["requested_by"] == "operator"


class TestWait:
    @pytest.mark.parametrize("wait", ["0", "5", "0.5", "1e3"])
    def test_200_when_it_is_over_at_once(self, api: APIClient, runs: Any, wait: str) -> None:
        response = api.post(f"/runs/{runs.queued().pk}/stop?wait={wait}")
        assert response.status_code == 200
        assert response.json()["status"] == "stopped"

    def test_202_when_it_is_not_over_in_time(self, api: APIClient, runs: Any) -> None:
        response = api.post(f"/runs/{runs.running().pk}/stop?wait=0.2")
        assert response.status_code == 202
        assert response.json()["status"] == "stopping"

    @pytest.mark.parametrize(
        "wait", ["", "-1", "x", "nan", "inf", "1_0", "%00", "true", "1&wait=2", "%D9%A3"]
    )
    def test_a_wrong_wait_is_400_and_stops_nothing(
        self, api: APIClient, runs: Any, wait: str
    ) -> None:
        run = runs.queued()
        response = api.post(f"/runs/{run.pk}/stop?wait={wait}")
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_filter"
        assert response.json()["fields"].keys() == {"wait"}
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    def test_it_is_capped_at_sixty_seconds(
        self, api: APIClient, runs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[float] = []
        monkeypatch.setattr(
            stop_views, "wait_until_over", lambda run, seconds: bool(asked.append(seconds))
        )
        assert api.post(f"/runs/{runs.running().pk}/stop?wait=1e999").status_code == 202
        assert asked == [60]

    @pytest.mark.django_db(transaction=True)
    def test_it_answers_when_the_run_ends_here_without_looking_again(
        self, api: APIClient, runs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ends, "FIRST_PAUSE_SECONDS", 30)
        run = runs.running()
        with in_thread(lambda: api.post(f"/runs/{run.pk}/stop?wait=20")) as answer:
            _until(lambda: run.pk in local_runs._waiting)
            runs.end(run, "stopped", partial_result="half")
            response = answer()
        assert response.status_code == 200
        assert response.json()["status"] == "stopped"
        assert response.json()["partial_result"] == "half"
        assert not local_runs._waiting

    @pytest.mark.django_db(transaction=True)
    def test_it_answers_when_the_run_ends_elsewhere(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        entry = runs.entry(run)
        local_runs._runs.pop(run.pk)  # as if it were in another process
        try:
            with in_thread(lambda: api.post(f"/runs/{run.pk}/stop?wait=20")) as answer:
                _until(lambda: run.pk in local_runs._waiting)
                waiting_event = local_runs._waiting.pop(run.pk)
                runs.end(run, "stopped")
                assert not any(event.is_set() for event in waiting_event)
                assert answer().status_code == 200
        finally:
            local_runs.add(entry)


class TestStopMany:
    def test_one_outcome_per_run_in_the_order_given(
        self, api: APIClient, runs: Any, bob: User
    ) -> None:
        running, queued, over = runs.running(), runs.queued(), runs.success()
        asked = runs.running()
        stopping.request_stop(asked.pk, via="api", by=runs.owner)
        hidden, missing = runs.queued(owner=bob), uuid.uuid4()
        ids = [str(getattr(one, "pk", one)) for one in (over, missing, running, hidden, queued)]
        response = api.post(
            "/runs/stop", {"ids": [*ids, str(asked.pk), ids[0]], "reason": "all of it"}
        )
        assert response.status_code == 202
        assert response.json() == {
            "outcomes": [
                {"id": ids[0], "outcome": "already_finished"},
                {"id": ids[1], "outcome": "not_found"},
                {"id": ids[2], "outcome": "accepted"},
                {"id": ids[3], "outcome": "not_found"},
                {"id": ids[4], "outcome": "accepted"},
                {"id": str(asked.pk), "outcome": "already_stopping"},
            ],
            "counts": {
                "accepted": 2,
                "already_stopping": 1,
                "already_finished": 1,
                "not_permitted": 0,
                "not_found": 2,
            },
        }
        assert api.get(f"/runs/{ids[2]}").json()["stop"]["reason"] == "all of it"
        assert api.get(f"/runs/{ids[4]}").json()["status"] == "stopped"
        assert RunRecord.objects.get(pk=hidden.pk).stop_requested_at is None

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_a_filter_looks_at_runs_that_are_not_over_and_visible(
        self, api: APIClient, runs: Any, bob: User, slash: str
    ) -> None:
        runs.success()
        runs.queued("anything")
        runs.queued(owner=bob)
        wanted = {str(runs.queued().pk), str(runs.running().pk)}
        response = api.post(f"/runs/stop{slash}", {"filter": {"agent": "echo"}})
        assert response.status_code == 202
        assert {one["id"] for one in response.json()["outcomes"]} == wanted
        assert response.json()["counts"]["accepted"] == 2

    def test_what_may_be_seen_but_not_stopped_reads_not_permitted(
        self, client_of: Callable[[User], APIClient], viewer: User, runs: Any
    ) -> None:
        theirs, own = runs.queued(), runs.queued(owner=viewer)
        answer = client_of(viewer).post("/runs/stop", {"filter": {"agent": "echo"}}).json()
        outcomes = {one["id"]: one["outcome"] for one in answer["outcomes"]}
        assert outcomes == {str(theirs.pk): "not_permitted", str(own.pk): "accepted"}
        assert RunRecord.objects.get(pk=theirs.pk).stop_requested_at is None

    @pytest.mark.parametrize(
        "filter",
        [
            {"status": "running"},
            {"status": ["running", "stopping"]},
            {"status": "running,stopping"},
            {"owner": "alice"},
            {"created_after": "2020-01-01T00:00:00Z"},
            {"created_before": "2999-01-01T00:00:00Z"},
        ],
        ids=str,
    )
    def test_filters_have_the_names_of_the_list(
        self, api: APIClient, runs: Any, filter: Any
    ) -> None:
        run = runs.running()
        answer = api.post("/runs/stop", {"filter": filter}).json()
        assert answer["outcomes"] == [{"id": str(run.pk), "outcome": "accepted"}]

    def test_a_tree_by_its_root(self, api: APIClient, runs: Any) -> None:
        root = runs.running()
        child = runs.child_of(root)
        runs.running()
        answer = api.post("/runs/stop", {"filter": {"root": str(root.pk)}}).json()
        assert {one["id"] for one in answer["outcomes"]} == {str(root.pk), str(child.pk)}

    def test_a_filter_that_finds_nothing_is_no_error(self, api: APIClient, runs: Any) -> None:
        runs.success()
        response = api.post("/runs/stop", {"filter": {"status": "success"}})
        assert response.status_code == 202
        assert response.json()["outcomes"] == []
        assert set(response.json()["counts"].values()) == {0}

    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            ({}, {"ids", "filter"}),
            ({"reason": "x"}, {"ids", "filter"}),
            ({"ids": ["00000000-0000-7000-8000-000000000000"], "filter": {"agent": "echo"}},
             {"ids", "filter"}),
            ({"ids": []}, {"ids"}),
            ({"ids": None}, {"ids"}),
            ({"ids": "00000000-0000-7000-8000-000000000000"}, {"ids"}),
            ({"ids": {}}, {"ids"}),
            ({"ids": ["00000000-0000-7000-8000-000000000000", "x", 5]}, {"ids.1", "ids.2"}),
            ({"ids": [None]}, {"ids.0"}),
            ({"filter": {}}, {"filter"}),
            ({"filter": None}, {"filter"}),
            ({"filter": []}, {"filter"}),
            ({"filter": "all"}, {"filter"}),
            ({"filter": {"status": "done"}}, {"filter.status"}),
            ({"filter": {"status": []}}, {"filter.status"}),
            ({"filter": {"status": None}}, {"filter.status"}),
            ({"filter": {"status": [5]}}, {"filter.status"}),
            ({"filter": {"agent": ""}}, {"filter.agent"}),
            ({"filter": {"agent": 5}}, {"filter.agent"}),
            ({"filter": {"agent": "\0"}}, {"filter.agent"}),
            ({"filter": {"parent": 5}}, {"filter.parent"}),
            ({"filter": {"created_after": 5}}, {"filter.created_after"}),
            ({"filter": {"state": "running"}}, {"filter.state"}),
            ({"filter": {"agent": "echo"}, "reason": 5}, {"reason"}),
            ({"filter": {"agent": "echo"}, "mode": "x"}, {"mode"}),
            ({"filter": {"agent": "echo"}, "all": True}, {"all"}),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_wrong_body_is_400_and_stops_nothing(
        self, api: APIClient, runs: Any, body: Any, fields: set[str]
    ) -> None:
        run = runs.queued()
        response = api.post("/runs/stop", body)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_input"
        assert response.json()["fields"].keys() == fields
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    def test_the_number_of_ids_has_a_limit_and_the_answer_names_it(self, api: APIClient) -> None:
        ids = [str(uuid.uuid4()) for _ in range(inputs.MOST_IDS + 1)]
        response = api.post("/runs/stop", {"ids": ids})
        assert response.status_code == 400
        assert "10000" in response.json()["fields"]["ids"][0]
        assert api.post("/runs/stop", {"ids": ids[:-1]}).json()["counts"]["not_found"] == 10_000


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited for 10 s"
        time.sleep(0.005)
