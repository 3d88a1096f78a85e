"""Limits in ``POST /runs``, and ``POST /runs/<id>/limits``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.utils import timezone
from rest_framework.test import APIClient

from agents import Tools, agent
from runs.models import RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def limited() -> None:
    @agent("limited", deadline_seconds=60, idle_seconds=10)
    async def limited(tools: Tools) -> None: ...


@pytest.fixture
def raiser(alice: User, client_of: Callable[[User], APIClient]) -> APIClient:
    """The client of a user who may raise the limits of own runs."""
    user = User.objects.create_user("raiser")
    user.user_permissions.set(Permission.objects.filter(codename="raise_limits"))
    return client_of(user)


def limits(answer: Any) -> dict[str, Any]:
    assert answer.status_code in (200, 201), answer.content
    return dict(answer.json()["limits"])


class TestStart:
    def test_takes_those_of_the_agent(self, api: APIClient) -> None:
        assert limits(api.post("/runs", {"agent": "limited"})) == {
            "deadline_seconds": 60,
            "idle_seconds": 10,
            "call_seconds": None,
            "deadline_at": None,  # it has not started
        }

    def test_may_tighten_them_and_add_one(self, api: APIClient) -> None:
        given = {"deadline_seconds": 59.5, "call_seconds": 5}
        found = limits(api.post("/runs", {"agent": "limited", "limits": given}))
        assert (found["deadline_seconds"], found["idle_seconds"]) == (59.5, 10)
        assert found["call_seconds"] == 5

    @pytest.mark.parametrize("value", [61, None])
    def test_may_not_loosen_them(self, api: APIClient, raiser: APIClient, value: Any) -> None:
        body = {"agent": "limited", "limits": {"deadline_seconds": value}}
        answer = api.post("/runs", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "limits_not_permitted")
        assert answer.json()["fields"] == {"limits.deadline_seconds": ["At most 60 s."]}
        assert not RunRecord.objects.exists()
        assert limits(raiser.post("/runs", body))["deadline_seconds"] == value

    def test_takes_the_sites_if_that_is_tighter(
        self, api: APIClient, options: Callable[..., None]
    ) -> None:
        options(DEADLINE_SECONDS=30.0)
        found = [limits(api.post("/runs", {"agent": name})) for name in ("limited", "echo")]
        assert [one["deadline_seconds"] for one in found] == [30, 30]
        body = {"agent": "limited", "limits": {"deadline_seconds": 31}}
        assert api.post("/runs", body).status_code == 403

    @pytest.mark.parametrize(
        ("given", "path"),
        [
            ({"deadline_seconds": 0}, "limits.deadline_seconds"),
            ({"deadline_seconds": -1}, "limits.deadline_seconds"),
            ({"idle_seconds": "5"}, "limits.idle_seconds"),
            ({"call_seconds": True}, "limits.call_seconds"),
            ({"call_seconds": 1e9}, "limits.call_seconds"),
            ({"tokens": 5}, "limits.tokens"),
            ([], "limits"),
        ],
    )
    def test_refuses_what_is_no_limit(self, api: APIClient, given: Any, path: str) -> None:
        answer = api.post("/runs", {"agent": "echo", "limits": given})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
        assert list(answer.json()["fields"]) == [path]

    def test_they_are_part_of_what_a_key_stands_for(self, api: APIClient) -> None:
        body = {"agent": "echo", "limits": {"deadline_seconds": 5}}
        status = [
            api.post("/runs", each, HTTP_IDEMPOTENCY_KEY="k").status_code
            for each in (body, body, {"agent": "echo"})
        ]
        assert status == [201, 200, 422]


class TestChange:
    @pytest.fixture
    def running(self, alice: User) -> RunRecord:
        now = timezone.now()
        return make_run(
            alice,
            status=Status.RUNNING,
            worker=make_worker(),
            started_at=now,
            deadline_seconds=60,
            deadline_at=now + timedelta(seconds=60),
        )

    def change(self, client: APIClient, run: RunRecord, **given: Any) -> Any:
        return client.post(f"/runs/{run.pk}/limits", given)

    def test_by_the_owner_may_tighten(self, api: APIClient, running: RunRecord) -> None:
        found = limits(self.change(api, running, deadline_seconds=30, idle_seconds=5))
        assert found == {
            "deadline_seconds": 30,
            "idle_seconds": 5,
            "call_seconds": None,
            "deadline_at": (running.started_at + timedelta(seconds=30)).isoformat(),
        }
        [entry] = LogEntry.objects.all()
        assert entry.object_id == str(running.pk)
        assert "deadline_seconds: 60.0 -> 30.0" in entry.change_message

    @pytest.mark.parametrize("value", [61, None])
    def test_by_the_owner_may_not_loosen(
        self, api: APIClient, alice: User, running: RunRecord, client_of: Any, value: Any
    ) -> None:
        answer = self.change(api, running, deadline_seconds=value)
        assert (answer.status_code, answer.json()["code"]) == (403, "limits_not_permitted")
        assert answer.json()["fields"] == {"deadline_seconds": ["At most 60 s."]}
        alice.user_permissions.add(Permission.objects.get(codename="raise_limits"))
        found = limits(self.change(client_of(alice), running, deadline_seconds=value))
        at = running.started_at + timedelta(seconds=61)
        assert found["deadline_at"] == (at.isoformat() if value else None)

    def test_that_changes_nothing_writes_nothing(self, api: APIClient, running: RunRecord) -> None:
        assert limits(self.change(api, running, deadline_seconds=60))["deadline_seconds"] == 60
        assert not LogEntry.objects.exists()

    def test_counts_from_the_start_of_a_run_that_had_no_deadline(
        self, api: APIClient, running: RunRecord
    ) -> None:
        RunRecord.objects.update(deadline_seconds=None, deadline_at=None)
        at = (running.started_at + timedelta(seconds=30)).isoformat()
        assert limits(self.change(api, running, deadline_seconds=30))["deadline_at"] == at

    def test_of_a_queued_run_counts_from_its_start(self, api: APIClient, alice: User) -> None:
        run = make_run(alice)
        assert limits(self.change(api, run, deadline_seconds=30))["deadline_at"] is None

    def test_of_what_others_run_takes_the_right_to_stop(
        self,
        running: RunRecord,
        bob: User,
        viewer: User,
        operator: User,
        client_of: Callable[[User], APIClient],
    ) -> None:
        status = [
            self.change(client_of(user), running, idle_seconds=5).status_code
            for user in (bob, viewer, operator)
        ]
        assert status == [404, 403, 200]
        assert self.change(client_of(operator), running, deadline_seconds=90).status_code == 403

    def test_of_a_stopping_or_finished_run_is_409(
        self, api: APIClient, alice: User, running: RunRecord
    ) -> None:
        RunRecord.objects.filter(pk=running.pk).update(**requested(alice))
        answer = self.change(api, running, idle_seconds=5)
        assert (answer.status_code, answer.json()["code"]) == (409, "run_is_stopping")
        over = make_run(alice, status=Status.SUCCESS)
        answer = self.change(api, over, idle_seconds=5)
        assert (answer.status_code, answer.json()["code"]) == (409, "run_already_finished")
        assert answer.json()["run"]["status"] == "success"

    def test_of_a_run_that_has_reached_its_deadline_is_409(
        self, api: APIClient, running: RunRecord
    ) -> None:
        RunRecord.objects.update(deadline_at=timezone.now())
        answer = self.change(api, running, idle_seconds=5)
        assert (answer.status_code, answer.json()["code"]) == (409, "run_is_stopping")

    def test_refuses_what_is_no_limit(self, api: APIClient, running: RunRecord) -> None:
        for given, path in (({"deadline_seconds": 0}, "deadline_seconds"), ({"x": 1}, "x")):
            answer = self.change(api, running, **given)
            assert (answer.status_code, list(answer.json()["fields"])) == (400, [path])

    def test_gives_the_runs_below_the_same_deadline(
        self, api: APIClient, alice: User, running: RunRecord
    ) -> None:
        above = running.deadline_at
        inherits = make_run(alice, parent=running, deadline_at=above)
        deeper = make_run(alice, parent=inherits, deadline_at=above)
        sooner = make_run(
            alice,
            parent=running,
            status=Status.RUNNING,
            worker=running.worker,
            deadline_seconds=10,
            deadline_at=running.started_at + timedelta(seconds=10),
        )
        self.change(api, running, deadline_seconds=30)
        at = {run.pk: run.deadline_at for run in RunRecord.objects.all()}
        moved = running.started_at + timedelta(seconds=30)
        assert [at[run.pk] for run in (running, inherits, deeper)] == [moved] * 3
        assert at[sooner.pk] == sooner.deadline_at
        self.change(api, running, deadline_seconds=5)
        assert set(RunRecord.objects.values_list("deadline_at", flat=True)) == {
            running.started_at + timedelta(seconds=5)
        }
