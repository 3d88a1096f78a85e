"""GET /runs and GET /runs/<id>: what a run looks like, who sees it, filters, pages."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from runs.actions import stopping
from runs.models import RunRecord

pytestmark = pytest.mark.django_db

STOP_KEYS = {
    "mode", "reason", "via", "requested_by", "requested_at", "escalated_by", "escalated_at",
    "acknowledged_at", "observed_at", "finished_first", "calls_started_after_acknowledgement",
    "root_request", "abandoned", "cleanup_error", "abort_at", "abandon_at", "calls_cut",
    "left_behind", "limit",
}  # fmt: skip


def _ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [run["id"] for run in response.json()["results"]]


class TestOneRun:
    def test_a_running_run_names_its_worker_and_what_it_waits_for(
        self, api: APIClient, runs: Any
    ) -> None:
        call = {
            "call": "1",
            "tool": "call_llm",
            "label": "m",
            "started_at": "2026-01-31T12:00:00+00:00",
        }
        record = runs.tell(runs.running(), 3, in_flight=[call])
        run = api.get(f"/runs/{record.pk}").json()
        assert run["status"] == "running"
        assert run["attempt"] == 1
        assert run["worker"] == runs.worker.name
        assert run["in_flight"] == [call]
        assert run["last_seq"] == 3
        assert datetime.datetime.fromisoformat(run["started_at"]) == record.started_at
        assert run["finished_at"] is None

    def test_a_successful_run_has_its_result(self, api: APIClient, runs: Any) -> None:
        record = runs.success({"deep": [1, None]})
        run = api.get(f"/runs/{record.pk}").json()
        assert (run["status"], run["result"], run["error"]) == (
            "success",
            {"deep": [1, None]},
            None,
        )
        assert run["finished_at"] == record.finished_at.isoformat()
        assert run["stop"] is None

    def test_a_failed_run_has_its_error(self, api: APIClient, runs: Any) -> None:
        error = {"code": "llm_error", "type": "LLMError", "message": "no"}
        record = runs.end(runs.running(), "error", error=error, partial_result="half")
        run = api.get(f"/runs/{record.pk}").json()
        assert (run["status"], run["error"], run["partial_result"]) == ("error", error, "half")

    def test_a_run_that_was_asked_to_stop_is_stopping_and_has_a_receipt(
        self, api: APIClient, runs: Any
    ) -> None:
        record = runs.running()
        api.post(f"/runs/{record.pk}/stop", {"reason": "why not"})
        run = api.get(f"/runs/{record.pk}").json()
        record.refresh_from_db()
        assert run["status"] == "stopping"
        assert run["stop"].keys() == STOP_KEYS
        assert run["stop"] | {"requested_at": None} == {
            "mode": "graceful",
            "reason": "why not",
            "via": "api",
            "requested_by": "alice",
            "requested_at": None,
            "escalated_by": None,
            "escalated_at": None,
            "acknowledged_at": None,
            "observed_at": None,
            "abort_at": None,
            "abandon_at": None,
            "finished_first": False,
            "calls_started_after_acknowledgement": 0,
            "calls_cut": 0,
            "root_request": str(record.pk),
            "abandoned": False,
            "left_behind": [],
            "limit": None,
            "cleanup_error": None,
        }
        assert run["stop"]["requested_at"] == record.stop_requested_at.isoformat()

    def test_a_stopped_run_keeps_what_it_had(self, api: APIClient, runs: Any) -> None:
        record = runs.running()
        stopping.request_stop(record.pk, via="api", by=runs.owner)
        cleanup_error = {"code": "x", "type": "KeyError", "message": "'a'"}
        runs.end(record, "stopped", partial_result=[1], cleanup_error=cleanup_error)
        run = api.get(f"/runs/{record.pk}").json()
        assert (run["status"], run["result"], run["partial_result"]) == ("stopped", None, [1])
        assert run["stop"]["cleanup_error"] == {"type": "KeyError", "message": "'a'"}

    def test_a_child_names_parent_and_root(self, api: APIClient, runs: Any) -> None:
        root = runs.running()
        child = runs.child_of(root)
        grandchild = runs.child_of(child)
        run = api.get(f"/runs/{grandchild.pk}").json()
        assert (run["parent"], run["root"]) == (str(child.pk), str(root.pk))

    def test_the_id_may_be_written_in_capitals(self, api: APIClient, runs: Any) -> None:
        record = runs.queued()
        assert api.get(f"/runs/{str(record.pk).upper()}/").json()["id"] == str(record.pk)

    def test_it_costs_one_query_beside_identity_and_permissions(
        self, api: APIClient, runs: Any
    ) -> None:
        record = runs.running()
        stopping.request_stop(record.pk, via="api", by=runs.owner)
        api.get(f"/runs/{record.pk}")  # notes the use of the token, once a minute
        with CaptureQueriesContext(connection) as queries:
            api.get(f"/runs/{record.pk}")
        about_runs = [query for query in queries if "runs_runrecord" in query["sql"]]
        assert len(about_runs) == 1
        assert len(queries) <= 4  # the token, the user's permissions, the groups' permissions


class TestWhoSeesWhat:
    @pytest.mark.parametrize("suffix", ["", "/events"])
    def test_runs_of_others_do_not_exist(
        self, api: APIClient, bob: User, runs: Any, suffix: str
    ) -> None:
        hidden = runs.queued(owner=bob)
        response = api.get(f"/runs/{hidden.pk}{suffix}")
        missing = api.get(f"/runs/{uuid.uuid4()}{suffix}")
        assert response.status_code == missing.status_code == 404
        assert response.json() == missing.json()
        assert response.json()["code"] == "not_found"
        assert _ids(api.get("/runs")) == []

    def test_one_who_may_view_sees_all(
        self, client_of: Callable[[User], APIClient], viewer: User, bob: User, runs: Any
    ) -> None:
        seen = {str(runs.queued().pk), str(runs.queued(owner=bob).pk)}
        client = client_of(viewer)
        assert set(_ids(client.get("/runs"))) == seen
        assert all(client.get(f"/runs/{id}").status_code == 200 for id in seen)

    @pytest.mark.parametrize(
        "id",
        [
            "x", "1", "0" * 32, "{00000000-0000-0000-0000-000000000000}", "stop%00", "%F0%9F%98%80",
            "urn:uuid:00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-00000000000g",
            "00000000-0000-0000-0000-000000000000%0A", "..%2f", "\u0663" * 36,
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("suffix", ["", "/", "/events"])
    def test_what_is_no_id_is_404(self, api: APIClient, id: str, suffix: str) -> None:
        response = api.get(f"/runs/{id}{suffix}")
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"


class TestFilters:
    def _one_of_each(self, runs: Any) -> dict[str, str]:
        waiting = runs.running()
        stopping.request_stop(waiting.pk, via="api", by=runs.owner)
        ended = runs.running()
        stopping.request_stop(ended.pk, via="api", by=runs.owner)
        error = {"code": "c", "type": "t", "message": "m"}
        return {
            "queued": str(runs.queued().pk),
            "running": str(runs.running().pk),
            "stopping": str(waiting.pk),
            "success": str(runs.success().pk),
            "error": str(runs.end(runs.running(), "error", error=error).pk),
            "stopped": str(runs.end(ended, "stopped").pk),
        }

    def test_each_status_is_found_and_nothing_else(self, api: APIClient, runs: Any) -> None:
        ids = self._one_of_each(runs)
        for status, id in ids.items():
            found = api.get(f"/runs?status={status}")
            assert _ids(found) == [id]
            assert found.json()["results"][0]["status"] == status

    @pytest.mark.parametrize(
        "query",
        ["status=queued&status=stopping", "status=queued,stopping", "status=queued, stopping"],
    )
    def test_several_statuses_are_any_of_them(self, api: APIClient, runs: Any, query: str) -> None:
        ids = self._one_of_each(runs)
        assert set(_ids(api.get(f"/runs?{query}"))) == {ids["queued"], ids["stopping"]}

    def test_by_agent(self, api: APIClient, runs: Any) -> None:
        runs.queued()
        wanted = runs.queued("anything")
        assert _ids(api.get("/runs?agent=anything")) == [str(wanted.pk)]
        assert _ids(api.get("/runs?agent=gone")) == []

    def test_by_owner(
        self, client_of: Callable[[User], APIClient], viewer: User, bob: User, runs: Any
    ) -> None:
        runs.queued()
        wanted = runs.queued(owner=bob)
        assert _ids(client_of(viewer).get("/runs?owner=bob")) == [str(wanted.pk)]
        assert _ids(client_of(runs.owner).get("/runs?owner=bob")) == []

    def test_by_parent_and_by_root(self, api: APIClient, runs: Any) -> None:
        runs.queued()
        root = runs.running()
        child = runs.child_of(root)
        grandchild = runs.child_of(child)
        assert _ids(api.get(f"/runs?parent={root.pk}")) == [str(child.pk)]
        tree = [str(run.pk) for run in (grandchild, child, root)]
        assert _ids(api.get(f"/runs?root={root.pk}")) == tree

    def test_after_includes_its_instant_and_before_does_not(
        self, api: APIClient, runs: Any
    ) -> None:
        first, second, third = (str(runs.queued().pk) for _ in range(3))
        at = api.get(f"/runs/{second}").json()["created_at"]
        assert _ids(api.get("/runs", {"created_after": at})) == [third, second]
        assert _ids(api.get("/runs", {"created_before": at})) == [first]
        # A + that nobody has escaped is a space.
        assert "+" in at
        assert _ids(api.get(f"/runs?created_after={at}")) == [third, second]

    def test_times_are_taken_for_utc_and_other_zones_are_understood(
        self, api: APIClient, runs: Any
    ) -> None:
        id = str(runs.queued().pk)
        at = RunRecord.objects.get(pk=id).created_at
        elsewhere = at.astimezone(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
        for text in (elsewhere.isoformat(), at.replace(tzinfo=None).isoformat()):
            assert _ids(api.get("/runs", {"created_after": text})) == [id]
            assert _ids(api.get("/runs", {"created_before": text})) == []

    def test_all_of_them_hold_together(self, api: APIClient, runs: Any) -> None:
        ids = self._one_of_each(runs)
        query = {"status": "queued", "agent": "echo", "owner": "alice", "root": ids["queued"]}
        assert _ids(api.get("/runs", query)) == [ids["queued"]]
        assert _ids(api.get("/runs", {**query, "agent": "anything"})) == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("status=done", "status"),
            ("status=", "status"),
            ("status=queued,,running", "status"),
            ("status=QUEUED", "status"),
            ("agent=", "agent"),
            ("agent=a%00", "agent"),
            ("agent=a&agent=b", "agent"),
            ("owner=%00", "owner"),
            ("parent=1", "parent"),
            ("parent=", "parent"),
            ("root=00000000000000000000000000000000", "root"),
            ("root=00000000000000000000000000000000----", "root"),
            ("created_after=yesterday", "created_after"),
            ("created_after=2026-13-01T00:00:00Z", "created_after"),
            ("created_after=0001-01-01T00:00:00%2B14:00", "created_after"),
            ("created_before=9999-12-31T23:59:59-14:00", "created_before"),
            ("created_before=%00", "created_before"),
            ("cursor=", "cursor"),
            ("cursor=x", "cursor"),
            ("cursor=%F0%9F%98%80", "cursor"),
            ("cursor=" + "_" * 34 + "==", "cursor"),
            ("cursor=AP__________AAAAAAAAAAAAAAAAAAAAAA==", "cursor"),
            ("page_size=0", "page_size"),
            ("page_size=-1", "page_size"),
            ("page_size=ten", "page_size"),
            ("page_size=1.5", "page_size"),
            ("page_size=", "page_size"),
            ("page_size=%D9%A3", "page_size"),
            ("state=queued", "state"),
            ("format=json", "format"),
            ("%00=1", "\ufffd"),
        ],
    )
    def test_a_wrong_filter_is_named(self, api: APIClient, query: str, field: str) -> None:
        response = api.get(f"/runs?{query}")
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_filter"
        assert response.json()["fields"].keys() == {field}


class TestPages:
    def test_newest_first_and_fifty_to_a_page(self, api: APIClient, runs: Any) -> None:
        ids = [str(runs.queued().pk) for _ in range(51)][::-1]
        first = api.get("/runs")
        assert _ids(first) == ids[:50]
        assert first.json()["previous"] is None
        assert first.json()["next"].startswith("http://testserver/runs?")
        second = api.get(first.json()["next"])
        assert _ids(second) == ids[50:]
        assert second.json()["next"] is None
        assert _ids(api.get(second.json()["previous"])) == ids[:50]

    def test_nothing_is_skipped_or_repeated_while_runs_come_in(
        self, api: APIClient, runs: Any
    ) -> None:
        ids = [str(runs.queued().pk) for _ in range(7)][::-1]
        seen, address = [], "/runs?page_size=2"
        while address:
            page = api.get(address)
            seen += _ids(page)
            address = page.json()["next"]
            runs.queued()
        assert seen == ids

    def test_runs_of_one_instant_are_told_apart(self, api: APIClient, runs: Any) -> None:
        ids = sorted((str(runs.queued().pk) for _ in range(5)), reverse=True)
        now = datetime.datetime.now(datetime.UTC)
        RunRecord.objects.update(created_at=now)
        seen, address = [], "/runs?page_size=2"
        while address:
            page = api.get(address).json()
            seen += [run["id"] for run in page["results"]]
            last, address = page, page["next"]
        assert seen == ids
        back = api.get(last["previous"]).json()
        assert [run["id"] for run in back["results"]] == ids[2:4]
        first = api.get(back["previous"]).json()
        assert [run["id"] for run in first["results"]] == ids[:2]
        assert first["previous"] is None
        assert [run["id"] for run in api.get(first["next"]).json()["results"]] == ids[2:4]

    def test_going_back_meets_the_runs_that_came_in(self, api: APIClient, runs: Any) -> None:
        ids = [str(runs.queued().pk) for _ in range(3)][::-1]
        second = api.get(api.get("/runs?page_size=2").json()["next"]).json()
        new = str(runs.queued().pk)
        back = api.get(second["previous"]).json()
        assert [run["id"] for run in back["results"]] == ids[:2]
        newest = api.get(back["previous"])
        assert _ids(newest) == [new]
        assert newest.json()["previous"] is None

    def test_filters_and_page_size_stay_in_the_address(self, api: APIClient, runs: Any) -> None:
        ids = [str(runs.queued("anything").pk) for _ in range(3)][::-1]
        runs.queued()
        page = api.get("/runs?agent=anything&page_size=1&status=queued&status=running").json()
        assert page["results"][0]["id"] == ids[0]
        page = api.get(page["next"]).json()
        assert [run["id"] for run in page["results"]] == [ids[1]]
        assert api.get(page["next"]).json()["next"] is None

    @pytest.mark.parametrize("size", ["201", "1000", "9" * 5000])
    def test_a_larger_page_is_capped_at_200(self, api: APIClient, runs: Any, size: str) -> None:
        for _ in range(201):
            runs.queued()
        assert len(_ids(api.get(f"/runs?page_size={size}"))) == 200

    def test_a_place_whose_runs_are_gone_leads_back(self, api: APIClient, runs: Any) -> None:
        for _ in range(2):
            runs.queued()
        address = api.get("/runs?page_size=1").json()["next"]
        RunRecord.objects.all().delete()
        page = api.get(address).json()
        assert page["results"] == []
        assert page["next"] is None
        assert api.get(page["previous"]).status_code == 200

    def test_the_number_of_queries_does_not_grow(
        self, client_of: Callable[[User], APIClient], operator: User, bob: User, runs: Any
    ) -> None:
        client = client_of(operator)

        def count() -> int:
            with CaptureQueriesContext(connection) as queries:
                assert client.get("/runs").status_code == 200
            return len(queries)

        stopping.request_stop(runs.running().pk, via="api", by=operator)
        count()  # notes the use of the token, once a minute
        few = count()
        for owner in (bob, runs.owner, operator):
            for _ in range(5):
                run = runs.running(owner=owner)
                stopping.request_stop(run.pk, via="api", by=operator)
        assert count() == few
