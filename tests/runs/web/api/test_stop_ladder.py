"""POST /runs/<id>/stop and POST /runs/stop with a mode and a plan."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from agents.cancellation import StopMode
from runs.models import RunRecord

pytestmark = pytest.mark.django_db


class TestTheModes:
    @pytest.mark.django_db(transaction=True)
    def test_abort_escalates_an_earlier_stop_of_another_user(
        self, api: APIClient, runs: Any, operator: User, client_of: Callable[[User], APIClient]
    ) -> None:
        run = runs.running()
        first = api.post(f"/runs/{run.pk}/stop", {"reason": "first"}).json()["stop"]
        response = client_of(operator).post(f"/runs/{run.pk}/stop", {"mode": "abort"})
        assert response.status_code == 202
        stop = response.json()["stop"]
        assert response.json()["status"] == "stopping"
        assert stop == {
            **first,
            "mode": "abort",
            "escalated_by": "operator",
            "escalated_at": stop["escalated_at"],
            "acknowledged_at": stop["acknowledged_at"],
        }
        assert runs.entry(run).token.mode is StopMode.ABORT

    def test_a_softer_one_is_202_and_changes_nothing(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        first = api.post(f"/runs/{run.pk}/stop", {"mode": "abort"})
        again = api.post(f"/runs/{run.pk}/stop", {"mode": "graceful"})
        assert again.status_code == 202
        assert again.json()["stop"] == first.json()["stop"]

    @pytest.mark.django_db(transaction=True)
    def test_abandon_is_over_when_the_answer_leaves(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        response = api.post(f"/runs/{run.pk}/stop", {"mode": "abandon"})
        assert response.status_code == 202
        answer = response.json()
        assert (answer["status"], answer["in_flight"]) == ("stopped", [])
        assert (answer["stop"]["mode"], answer["stop"]["abandoned"]) == ("abandon", True)
        [left] = answer["stop"]["left_behind"]
        assert (left["kind"], left["label"], left["ended_at"]) == ("code", "echo", None)
        assert runs.entry(run).token.mode is StopMode.ABANDON
        again = api.post(f"/runs/{run.pk}/stop", {"mode": "abandon"})
        assert (again.status_code, again.json()["code"]) == (409, "run_already_finished")

    @pytest.mark.parametrize("mode", ["abort", "abandon"])
    def test_the_right_is_that_of_a_stop(
        self, runs: Any, viewer: User, bob: User, client_of: Callable[[User], APIClient], mode: str
    ) -> None:
        run = runs.running()
        for user, status in ((viewer, 403), (bob, 404)):
            answer = client_of(user).post(f"/runs/{run.pk}/stop", {"mode": mode})
            assert answer.status_code == status
        record = RunRecord.objects.get(pk=run.pk)
        assert (record.status, record.stop_requested_at) == ("running", None)

    def test_no_such_mode_is_400_with_the_field(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        for path, more in ((f"/runs/{run.pk}/stop", {}), ("/runs/stop", {"ids": [str(run.pk)]})):
            response = api.post(path, {"mode": "kill", **more})
            assert response.status_code == 400
            assert response.json()["code"] == "invalid_input"
            assert response.json()["fields"].keys() == {"mode"}


class TestAPlan:
    def test_is_in_the_receipt(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        body = {"abort_after": 10, "abandon_after": 60.5}
        stop = api.post(f"/runs/{run.pk}/stop", body).json()["stop"]
        at = datetime.fromisoformat(stop["requested_at"])
        assert datetime.fromisoformat(stop["abort_at"]) == at + timedelta(seconds=10)
        assert datetime.fromisoformat(stop["abandon_at"]) == at + timedelta(seconds=60.5)
        assert (stop["mode"], stop["escalated_at"]) == ("graceful", None)

    def test_null_is_none(self, api: APIClient, runs: Any) -> None:
        run = runs.running()
        body = {"abort_after": None, "abandon_after": None, "mode": None, "reason": None}
        stop = api.post(f"/runs/{run.pk}/stop", body).json()["stop"]
        assert (stop["abort_at"], stop["abandon_at"], stop["mode"]) == (None, None, "graceful")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"abort_after": -0.1}, "abort_after"),
            ({"abort_after": "5"}, "abort_after"),
            ({"abort_after": True}, "abort_after"),
            ({"abandon_after": [1]}, "abandon_after"),
            ({"abandon_after": 365 * 86400 + 1}, "abandon_after"),
            ({"abandon_after": 10**400}, "abandon_after"),
            ({"abort_after": 5, "abandon_after": 4}, "abandon_after"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("is_bulk", [False, True])
    def test_that_is_none_is_400_with_the_field(
        self, api: APIClient, runs: Any, body: Any, field: str, is_bulk: bool
    ) -> None:
        run = runs.running()
        path = "/runs/stop" if is_bulk else f"/runs/{run.pk}/stop"
        response = api.post(path, {**body, **({"ids": [str(run.pk)]} if is_bulk else {})})
        assert response.status_code == 400, response.json()
        assert response.json()["code"] == "invalid_input"
        assert response.json()["fields"].keys() == {field}
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
    def test_a_number_that_json_does_not_have_is_400(
        self, api: APIClient, runs: Any, text: str
    ) -> None:
        body = f'{{"abort_after": {text}}}'.encode()
        path = f"/runs/{runs.running().pk}/stop"
        response = api.generic("POST", path, body, content_type="application/json")
        assert response.status_code == 400
        assert response.json()["code"] in ("invalid_json", "invalid_input")


class TestMany:
    def test_escalated_runs_are_accepted(self, api: APIClient, runs: Any) -> None:
        gentle, hard, fresh, over = runs.running(), runs.running(), runs.running(), runs.success()
        api.post(f"/runs/{gentle.pk}/stop")
        api.post(f"/runs/{hard.pk}/stop", {"mode": "abort"})
        ids = [str(run.pk) for run in (gentle, hard, fresh, over)]
        body = {"ids": ids, "mode": "abort", "abandon_after": 60}
        answer = api.post("/runs/stop", body).json()
        words = ["accepted", "accepted", "accepted", "already_finished"]
        assert [one["outcome"] for one in answer["outcomes"]] == words
        again = api.post("/runs/stop", {**body, "abandon_after": 600}).json()
        assert again["counts"]["already_stopping"] == 3
        assert (
            RunRecord.objects.filter(stop_mode="abort", stop_abandon_at__isnull=False).count() == 3
        )

    def test_by_filter_may_be_abandoned(self, api: APIClient, runs: Any) -> None:
        for _ in range(3):
            runs.running()
        answer = api.post("/runs/stop", {"filter": {"agent": "echo"}, "mode": "abandon"}).json()
        assert answer["counts"]["accepted"] == 3
        assert RunRecord.objects.filter(status="stopped", stop_abandoned=True).count() == 3
