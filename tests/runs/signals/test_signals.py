"""Each change of a run is one signal, after its commit, in the process that made the change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from agents import Tools, agent
from runs.actions import leases, limit_stops, recovery, starting, stopping
from runs.actions.stopping import request_stop, stop_many
from runs.delivery.stop_message import StopRequest
from runs.exceptions import RunAlreadyFinished
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, together

from .conftest import Heard, leave

pytestmark = pytest.mark.usefixtures("echo", "on_both_databases")

Start = Callable[..., RunRecord]


class TestARun:
    @pytest.mark.usefixtures("worker")
    def test_starts_and_finishes_once(self, start: Start, log: Journal, heard: Heard) -> None:
        run = start("echo", text="hello")
        log.over(run)
        leave()

        assert heard.names(run) == ["run_started", "run_finished"]
        started, finished = heard.of(run)
        assert (started["attempt"], started["run"].status) == (1, "running")
        assert finished["status"] == "success"
        record = finished["run"]
        assert (record.status, record.result, record.in_flight) == ("success", "hello", [])
        assert record.finished_at == RunRecord.objects.get().finished_at
        assert not heard.had_transactions

    @pytest.mark.usefixtures("worker")
    def test_that_is_stopped_says_what_was_asked_by_whom(
        self, start: Start, stop: Any, log: Journal, heard: Heard
    ) -> None:
        @agent("endless")
        async def endless(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.001)

        run = start("endless")
        log.until_at_work(1)
        stop(run)
        log.over(run)
        leave()

        assert heard.names(run) == ["run_started", "stop_requested", "run_finished"]
        [asked] = heard.of(run, "stop_requested")
        request: StopRequest = asked["stop"]
        assert (request.mode, request.reason, request.via) == ("graceful", "enough", "api")
        assert (request.requested_by, request.root_request) == ("alice", run.pk)
        assert asked["run"].agent == "endless"
        assert heard.of(run, "run_finished")[0]["run"].stop_observed_at is not None

    def test_that_is_stopped_in_the_queue_has_not_started(
        self, start: Start, stop: Any, heard: Heard
    ) -> None:
        run = start("echo")
        stop(run)

        assert heard.names(run) == ["stop_requested", "run_finished"]
        assert heard.of(run)[1]["status"] == "stopped"
        assert heard.of(run)[1]["run"].finished_at is not None

    @pytest.mark.usefixtures("forget_local_runs")
    def test_that_is_claimed_again_starts_again(self, alice: User, heard: Heard) -> None:
        run = make_run(alice, requeue_on_loss=True, max_attempts=3)
        for _ in range(2):
            lost = make_worker()
            assert leases.claim(lost.pk, 1, is_begin=True)
            WorkerRecord.objects.filter(pk=lost.pk).update(lost_at=timezone.now())
            assert recovery.recover_runs() == 1
        request_stop(run.pk, via="api", by=alice)

        assert [given["attempt"] for given in heard.of(run, "run_started")] == [1, 2]
        assert heard.names(run)[2:] == ["stop_requested", "run_finished"]

    def test_whose_worker_was_lost_finishes(self, alice: User, heard: Heard) -> None:
        lost = make_worker(lost_at=timezone.now())
        run = make_run(alice, status=Status.RUNNING, worker=lost)
        assert recovery.recover_runs() == 1
        assert recovery.recover_runs() == 0

        [finished] = heard.of(run)
        assert (finished["status"], finished["run"].error["code"]) == ("error", "worker_lost")

    def test_that_waited_too_long_finishes(self, alice: User, heard: Heard) -> None:
        run = make_run(alice, queue_until=timezone.now() - timedelta(seconds=1))
        assert recovery.end_overdue(timezone.now()) == 1

        [finished] = heard.of(run)
        assert finished["run"].error["code"] == "queue_timeout"

    def test_at_its_deadline_is_asked_to_stop(self, alice: User, heard: Heard) -> None:
        at = timezone.now() - timedelta(seconds=5)
        worker = make_worker()
        run = make_run(
            alice, status=Status.RUNNING, worker=worker, deadline_seconds=60.0, deadline_at=at
        )
        assert limit_stops.stop_overdue() == 1

        [asked] = heard.of(run)
        assert (asked["stop"].via, asked["stop"].requested_by) == ("budget", None)
        assert asked["stop"].limit["kind"] == "wall"

    def test_that_is_abandoned_finishes_once(
        self, start: Start, stop: Any, worker: Any, log: Journal, heard: Heard
    ) -> None:
        gate = Gate()

        @agent("stuck")
        def stuck(tools: Any) -> str:
            gate.wait_here()
            return "too late"

        run = start("stuck")
        gate.until_arrived()
        stop(run, mode="abandon")
        assert heard.names(run) == ["run_started", "stop_requested", "run_finished"]
        gate.open()
        leave()

        assert heard.names(run) == ["run_started", "stop_requested", "run_finished"]
        assert heard.of(run)[2]["run"].stop_abandoned

    @pytest.mark.usefixtures("forget_local_runs")
    def test_of_the_command_line_starts(self, alice: User, heard: Heard) -> None:
        worker = make_worker()
        run, _ = starting.start_run("echo", {}, owner=alice, worker=worker.pk)

        assert [given["attempt"] for given in heard.of(run)] == [1]

    @pytest.mark.usefixtures("worker")
    def test_that_is_called_has_signals_of_its_own(
        self, start: Start, stop: Any, log: Journal, heard: Heard
    ) -> None:
        gate = Gate()

        @agent("below")
        async def below(tools: Tools) -> None:
            await gate.wait()
            await tools.data_store.get("x")

        @agent("above")
        async def above(tools: Tools) -> None:
            await tools.agents.call("below", {})

        run = start("above")
        gate.until_arrived()
        stop(run)
        gate.open()
        log.over(run)
        leave()

        child = RunRecord.objects.get(parent=run)
        for one, via in ((run, "api"), (child, "parent")):
            assert heard.names(one) == ["run_started", "stop_requested", "run_finished"]
            [asked] = heard.of(one, "stop_requested")
            assert (asked["stop"].via, asked["stop"].root_request) == (via, run.pk)
        order = [(name, given["run"].pk) for name, given in heard.all if name == "run_finished"]
        assert order == [("run_finished", child.pk), ("run_finished", run.pk)]


class TestAStop:
    @pytest.fixture
    def running(self, alice: User) -> RunRecord:
        return make_run(alice, status=Status.RUNNING, worker=make_worker())

    def test_that_becomes_harder_is_another_signal(
        self, running: RunRecord, alice: User, heard: Heard
    ) -> None:
        for mode in ("graceful", "graceful", "abort", "graceful"):
            request_stop(running.pk, via="api", by=alice, mode=mode)

        assert [given["stop"].mode for given in heard.of(running)] == ["graceful", "abort"]
        assert [given["stop"].escalated_by for given in heard.of(running)] == [None, "alice"]

    def test_that_is_only_planned_is_none_yet(
        self, running: RunRecord, alice: User, heard: Heard
    ) -> None:
        request_stop(running.pk, via="api", by=alice)
        request_stop(running.pk, via="api", by=alice, abort_after=60)

        assert heard.names(running) == ["stop_requested"]

    def test_that_was_planned_is_another_signal(
        self, running: RunRecord, alice: User, heard: Heard
    ) -> None:
        request_stop(running.pk, via="api", by=alice, abort_after=0)
        assert stopping.escalate_due() == 1

        assert [given["stop"].planned for given in heard.of(running)] == [False, True]

    def test_of_many_is_a_signal_for_each(self, alice: User, heard: Heard) -> None:
        runs = [make_run(alice) for _ in range(5)]
        stop_many([run.pk for run in runs], by=alice, via="api")  # type: ignore[arg-type]

        for run in runs:
            assert heard.names(run) == ["stop_requested", "run_finished"]

    def test_of_a_deactivated_owner_is_a_signal(
        self, running: RunRecord, alice: User, heard: Heard
    ) -> None:
        alice.is_active = False
        alice.save()

        assert [given["stop"].via for given in heard.of(running)] == ["account"]

    def test_that_is_rolled_back_is_none(
        self, running: RunRecord, alice: User, heard: Heard
    ) -> None:
        queued = make_run(alice)
        with transaction.atomic():
            request_stop(running.pk, via="api", by=alice)
            request_stop(queued.pk, via="api", by=alice)
            transaction.set_rollback(True)

        assert not heard.names(running)
        assert not heard.names(queued)

    def test_is_told_after_the_commit(self, running: RunRecord, alice: User, heard: Heard) -> None:
        with transaction.atomic():
            request_stop(running.pk, via="api", by=alice)
            assert not heard.names(running)

        assert heard.names(running) == ["stop_requested"]

    def test_of_a_run_that_is_over_is_none(self, alice: User, heard: Heard) -> None:
        run = make_run(alice, status=Status.SUCCESS)
        with pytest.raises(RunAlreadyFinished):
            request_stop(run.pk, via="api", by=alice)

        assert not heard.names(run)

    def test_and_an_end_at_the_same_moment_are_told_once_each(
        self, alice: User, heard: Heard
    ) -> None:
        for _ in range(10):
            run = make_run(alice, queue_until=timezone.now() - timedelta(seconds=1))
            together(
                lambda run=run: request_stop(run.pk, via="api", by=alice),  # type: ignore[misc]
                lambda: recovery.end_overdue(timezone.now()),
            )
            names = heard.names(run)
            assert names in (["stop_requested", "run_finished"], ["run_finished"])
            [finished] = heard.of(run, "run_finished")
            assert finished["status"] == RunRecord.objects.get(pk=run.pk).status
