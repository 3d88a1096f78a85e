"""What the page shows."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from runs.models import RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested
from tests.support.run_pages import (
    PARTS,
    add_event,
    asked,
    client_of,
    data_of,
    element,
    page_of,
)

pytestmark = pytest.mark.django_db


class TestVisibility:
    @pytest.mark.parametrize("part", PARTS)
    def test_somebody_elses_run_is_not_there(self, part: str, alices: Client, bob: User) -> None:
        run = make_run(bob, status=Status.SUCCESS, result="secret")
        assert alices.get(f"/app/runs/{run.pk}/{part}").status_code == 404
        assert client_of(bob).get(f"/app/runs/{run.pk}/{part}").status_code == 200

    @pytest.mark.parametrize("part", [*PARTS, "download/events"])
    def test_whoever_is_not_signed_in_is_led_there(self, part: str, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS, result="secret")
        response = Client().get(f"/app/runs/{run.pk}/{part}")
        assert response.status_code == 302
        assert response["Location"].startswith("/accounts/login/?next=/app/runs/")

    @pytest.mark.parametrize("part", ["stop", "again"])
    def test_the_buttons_of_somebody_elses_run_are_not_there(
        self, part: str, alices: Client, bob: User
    ) -> None:
        run = asked(bob, {"text": "a"})
        response = alices.post(f"/app/runs/{run.pk}/{part}", content_type="application/json")
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"
        assert RunRecord.objects.count() == 1
        assert not RunRecord.objects.get().stop_requested

    def test_a_viewer_sees_no_stop(self, alice: User, bob: User) -> None:
        run = make_run(bob)
        viewer = client_of(alice, "view_runrecord")
        page = page_of(viewer, run)
        assert 'id="stop"' not in page
        assert 'id="reason"' not in page
        assert not data_of(page)["may_stop"]
        response = viewer.post(f"/app/runs/{run.pk}/stop", content_type="application/json")
        assert response.status_code == 403

    def test_nothing_is_kept_by_caches(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS, result="x")
        for part in PARTS:
            assert alices.get(f"/app/runs/{run.pk}/{part}")["Cache-Control"] == "no-store"


class TestFirstPaint:
    """What shows before any script has run."""

    @pytest.mark.parametrize(
        ("status", "fields", "label", "is_stop_enabled"),
        [
            (Status.QUEUED, {}, "○ Queued", True),
            (Status.RUNNING, {}, "◐ Running", True),
            (Status.SUCCESS, {"result": 1}, "✓ Done", False),
            (Status.ERROR, {}, "✗ Error", False),
            (Status.STOPPED, {"stop_mode": "graceful"}, "■ Stopped", False),
        ],
    )
    def test_chip_title_and_button_are_right(
        self,
        status: Status,
        fields: dict[str, Any],
        label: str,
        is_stop_enabled: bool,
        alices: Client,
        alice: User,
    ) -> None:
        page = page_of(alices, make_run(alice, agent="echo", status=status, **fields))
        assert f"<title>{label} · Say it again</title>" in page
        assert f'data-status="{status}"' in page
        assert (" disabled" in element(page, "stop").partition(">")[0]) is not is_stop_enabled
        assert element(page, "stop").endswith("Stop")

    def test_a_stopping_run_says_what_it_waits_for(self, alices: Client, alice: User) -> None:
        call = {"call": "1", "tool": "call_llm", "label": "llama3"}
        run = make_run(
            alice,
            status=Status.RUNNING,
            worker=make_worker(),
            in_flight=[{**call, "started_at": timezone.now().isoformat()}],
            **requested(alice, stop_acknowledged_at=timezone.now()),
        )
        page = page_of(alices, run)
        assert "Stopping... (after current LLM call completes) · llama3" in element(
            page, "stop-line"
        )
        assert element(page, "stop").endswith("Stopping...")
        assert " disabled" in element(page, "stop").partition(">")[0]

    @pytest.mark.parametrize(
        ("seconds", "mode", "label", "hint"),
        [
            (2, "graceful", "", ""),
            (6, "graceful", "Stop now", "(cuts the call in flight)"),
            (6, "abort", "Give up on it", ""),
        ],
    )
    def test_a_stop_that_takes_a_while_is_offered_the_next_rung(
        self, seconds: int, mode: str, label: str, hint: str, alices: Client, alice: User
    ) -> None:
        at = timezone.now() - timedelta(seconds=seconds)
        call = {"call": "1", "tool": "call_llm", "label": "llama3", "started_at": at.isoformat()}
        times = {"stop_requested_at": at, "stop_acknowledged_at": at}
        run = make_run(
            alice,
            status=Status.RUNNING,
            worker=make_worker(),
            in_flight=[call],
            **requested(alice, **times, stop_mode=mode),
        )
        page = page_of(alices, run)
        assert ('<div class="offer" id="offer" hidden>' in page) is not bool(label)
        if label:
            assert element(page, "harder").endswith(f"> {label} {hint}".rstrip())
            assert "paid for" in element(page, "harder-effect")
        offer = data_of(page)["words"]["offer"]
        assert offer["at"] == (at + timedelta(seconds=5)).isoformat(), "also for a later script"

    def test_a_viewer_is_offered_nothing(self, alice: User, bob: User) -> None:
        at = timezone.now() - timedelta(seconds=60)
        stop = requested(bob, stop_requested_at=at, stop_acknowledged_at=at)
        run = make_run(bob, status=Status.RUNNING, worker=make_worker(), **stop)
        assert 'id="offer"' not in page_of(client_of(alice, "view_runrecord"), run)

    def test_a_plan_is_counted_down(self, alices: Client, alice: User) -> None:
        at = timezone.now()
        plan = {"stop_abort_at": at + timedelta(seconds=99)}
        stop = requested(alice, stop_acknowledged_at=at, **plan)
        run = make_run(alice, status=Status.RUNNING, worker=make_worker(), **stop)
        line = element(page_of(alices, run), "stop-plan")
        assert "Cuts the calls in flight by itself in 1:" in line

    def test_a_silent_worker_is_told_of(self, alices: Client, alice: User) -> None:
        now = timezone.now()
        worker = make_worker(
            heartbeat_at=now - timedelta(seconds=30), lease_until=now + timedelta(seconds=8.5)
        )
        run = make_run(alice, status=Status.RUNNING, worker=worker, **requested(alice))
        assert "The worker does not answer" in element(page_of(alices, run), "stop-line")

    def test_a_stopped_run_says_who_and_why(self, alices: Client, alice: User) -> None:
        stop = requested(
            alice,
            stop_via="page",
            stop_reason="wrong document",
            stop_observed_at=timezone.now(),
        )
        run = make_run(alice, status=Status.STOPPED, partial_result="notes", **stop)
        line = element(page_of(alices, run), "receipt-line")
        assert "Stopped by alice at" in line
        assert "(reason: wrong document)" in line
        assert "Nothing was started after that. What it had so far is kept below." in line

    def test_times_are_those_of_the_reader(self, alices: Client, alice: User) -> None:
        alices.cookies["timezone"] = "Pacific/Kiritimati"  # fourteen hours ahead
        at = timezone.now().replace(hour=1, minute=2, second=3, microsecond=0)
        run = make_run(alice, status=Status.STOPPED, **requested(alice, stop_requested_at=at))
        assert "15:02:03" in element(page_of(alices, run), "receipt-line")

    @pytest.mark.parametrize("zone", ["Nowhere/Land", "../../etc/passwd", "\x00", "x" * 5_000])
    def test_a_zone_that_is_none_does_no_harm(self, zone: str, alices: Client, alice: User) -> None:
        alices.cookies["timezone"] = zone
        page_of(alices, make_run(alice))

    def test_a_child_names_its_caller(self, alices: Client, alice: User) -> None:
        parent = make_run(alice, agent="echo", status=Status.RUNNING)
        child = make_run(alice, status=Status.RUNNING, parent=parent)
        assert f'href="/app/runs/{parent.pk}/">Say it again</a>' in page_of(alices, child)

    def test_the_latest_progress_shows(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING)
        add_event(run, "progress", done=1, total=9, message="")
        add_event(run, "progress", done=5, total=9, message="reading")
        page = page_of(alices, run)
        assert '<progress value="5" max="9"' in page
        assert data_of(page)["progress"]["seq"] == 2

    def test_the_script_gets_no_input_and_no_result(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "BIG"}, status=Status.SUCCESS, result="LARGE")
        run_data = data_of(page_of(alices, run))["run"]
        assert not {"input", "result", "partial_result"} & run_data.keys()

    def test_state_is_what_the_page_began_with(self, alices: Client, alice: User) -> None:
        run = make_run(alice)
        began = data_of(page_of(alices, run))
        state = json.loads(page_of(alices, run, "state"))
        assert state["run"] == began["run"]
        assert state["words"] == began["words"]


class TestStop:
    def test_the_receipt_says_that_it_was_the_page(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        response = alices.post(
            f"/app/runs/{run.pk}/stop", {"reason": "enough"}, content_type="application/json"
        )
        assert response.status_code == 202
        assert response.json()["status"] == "stopping"
        run.refresh_from_db()
        assert (run.stop_via, run.stop_reason) == ("page", "enough")
        assert run.stop_requested_by == alice

    def test_it_becomes_harder_and_who_asked_first_stays(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker())
        address = f"/app/runs/{run.pk}/stop"
        for body in ({"reason": "enough"}, {"mode": "abort"}, {"mode": "graceful"}):
            assert alices.post(address, body, content_type="application/json").status_code == 202
        run.refresh_from_db()
        assert (run.stop_mode, run.stop_reason, run.stop_escalated_by) == ("abort", "enough", alice)
        alices.post(address, {"mode": "abandon"}, content_type="application/json")
        run.refresh_from_db()
        assert (run.status, run.stop_abandoned) == ("stopped", True)

    def test_a_run_that_is_over_is_409(self, alices: Client, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS)
        response = alices.post(f"/app/runs/{run.pk}/stop", content_type="application/json")
        assert response.status_code == 409

    @pytest.mark.parametrize("part", ["stop", "again"])
    def test_without_the_csrf_token_nothing_happens(self, part: str, alice: User) -> None:
        run = asked(alice, {"text": "a"})
        client = Client(enforce_csrf_checks=True)
        client.force_login(alice)
        response = client.post(f"/app/runs/{run.pk}/{part}", content_type="application/json")
        assert response.status_code == 403
        assert response.json()["code"] == "csrf_failed"
        assert not RunRecord.objects.get().stop_requested

    @pytest.mark.parametrize("part", ["stop", "again"])
    def test_signed_out_is_401(self, part: str, alice: User) -> None:
        run = make_run(alice)
        response = Client().post(f"/app/runs/{run.pk}/{part}", content_type="application/json")
        assert response.status_code == 401
        assert response.json()["code"] == "not_authenticated"

    def test_the_api_documents_know_nothing_of_the_page(self, alices: Client) -> None:
        response = alices.get("/api/schema", headers={"accept": "application/json"})
        assert response.status_code == 200
        assert b"/app/" not in response.content


class TestAgain:
    def post(self, client: Client, run: RunRecord, key: str = "") -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        address = f"/app/runs/{run.pk}/again"
        return client.post(address, content_type="application/json", headers=headers)

    def test_the_same_agent_gets_the_same_input(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "a", "times": 2}, status=Status.SUCCESS)
        response = self.post(alices, run)
        assert response.status_code == 201
        again = RunRecord.objects.get(pk=response.json()["id"])
        assert response.json()["address"] == f"/app/runs/{again.pk}/"
        assert again.pk != run.pk
        assert (again.agent, again.owner, again.status) == ("echo", alice, "queued")
        assert again.input_record.value == {"text": "a", "times": 2}

    def test_a_double_click_starts_one_run(self, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "a"}, status=Status.SUCCESS)
        first, second = self.post(alices, run, "key"), self.post(alices, run, "key")
        assert first.json() == second.json()
        assert RunRecord.objects.count() == 2

    def test_whoever_asks_owns_the_new_run(self, alice: User, bob: User) -> None:
        run = asked(bob, {"text": "a"}, status=Status.SUCCESS)
        response = self.post(client_of(alice, "view_runrecord"), run)
        assert RunRecord.objects.get(pk=response.json()["id"]).owner == alice

    def test_an_agent_that_is_gone_is_named(self, alices: Client, alice: User) -> None:
        run = make_run(alice, agent="gone", status=Status.SUCCESS)
        response = self.post(alices, run)
        assert response.status_code == 400
        assert 'There is no agent "gone"' in response.json()["detail"]
        assert "Edit and run again" not in page_of(alices, run)

    def test_an_input_that_does_not_fit_any_more_is_refused(
        self, alices: Client, alice: User
    ) -> None:
        run = asked(alice, {"words": 3}, status=Status.SUCCESS)
        response = self.post(alices, run)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_input"
        assert "input.text" in response.json()["fields"]

    @pytest.mark.parametrize("key", ["x" * 256, "\u00e9"])
    def test_a_key_that_is_none_is_refused(self, key: str, alices: Client, alice: User) -> None:
        run = asked(alice, {"text": "a"}, status=Status.SUCCESS)
        assert self.post(alices, run, key).status_code == 400
