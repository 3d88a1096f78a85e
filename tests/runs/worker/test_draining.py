"""A worker that shuts down: its runs end, are requeued, or are cut."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents import AgentStopped, SyncTools, Tools, agent, cleanup, should_stop
from runs.delivery import local_runs
from runs.models import DataStoreEntry, RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import worker as worker_module
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start, in_thread


class TestDrain:
    @pytest.fixture(autouse=True)
    def quick_unwinding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_module, "UNWIND_SECONDS", 0.5)

    @pytest.mark.usefixtures("endless")
    def test_runs_that_end_in_time_end_as_usual(
        self, options: Any, hire: Any, start: Start, stop: Any, log: Journal
    ) -> None:
        options(DRAIN_SECONDS=10)
        gate = Gate()

        @agent("finishing")
        async def finishing(tools: Tools) -> str:
            await gate.wait()
            await tools.data_store.set("x", 1)
            return "done"

        worker = hire()
        run, stopped = start("finishing"), start("endless")
        gate.until_arrived()
        log.until_event(stopped, "log")
        with in_thread(worker.drain_threads) as drained:
            eventually(
                lambda: WorkerRecord.objects.get(pk=worker.id).draining_at is not None, "draining"
            )
            late = start("finishing")
            stop(stopped)  # still works
            assert log.over(stopped).status == Status.STOPPED
            gate.open()
            assert log.over(run).result == "done"
            drained()
        late.refresh_from_db()
        assert late.status == Status.QUEUED
        assert_consistent(run)
        assert_consistent(stopped)

    def test_runs_that_take_too_long_are_unwound_with_their_partial_result(
        self, hire: Any, start: Start, log: Journal
    ) -> None:
        @agent("saving")
        async def saving(tools: Tools) -> str:
            tools.log("at work")
            try:
                while True:
                    await tools.data_store.get("x")
                    await asyncio.sleep(0.002)
            except AgentStopped:
                async with cleanup():
                    await tools.data_store.set("saved", 1)
                return "half"

        worker = hire()
        run = start("saving")
        log.until_event(run, "log")
        worker.drain_threads()
        record = log.over(run)
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert record.partial_result == "half"
        assert not record.stop_requested
        assert DataStoreEntry.objects.filter(key="saved").exists()
        assert_consistent(run)

    def test_runs_are_requeued_if_their_agent_allows(
        self, hire: Any, start: Start, log: Journal
    ) -> None:
        attempts: list[int] = []

        @agent("patient", on_worker_loss="requeue", max_attempts=2)
        async def patient(tools: Tools) -> str:
            attempts.append(1)
            tools.log("at work")
            while len(attempts) < 2:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)
            return "done"

        first = hire()
        run = start("patient")
        log.until_event(run, "log")
        first.stop_threads()
        run.refresh_from_db()
        assert (run.status, run.attempt, run.worker_id) == (Status.QUEUED, 1, None)
        second = hire()
        record = log.over(run)
        assert (record.status, record.result, record.attempt) == (Status.SUCCESS, "done", 2)
        assert record.worker_id == second.id
        assert [e.type for e in log.of(run)].count("agent_start") == 2
        assert_consistent(run)

    @pytest.mark.parametrize("first", ["the drain", "the agent"])
    def test_the_log_has_the_reason_before_the_observation_whoever_is_first(
        self, first: str, hire: Any, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("looking")
        async def looking(tools: Tools) -> None:
            tools.log("at work")
            if first == "the drain":
                await gate.wait()
            while not should_stop():
                await asyncio.sleep(0.002)
            gate.arrive()

        worker = hire()
        run = start("looking")
        log.until_event(run, "log")
        entry = local_runs.get(run.pk)
        assert entry is not None
        # What the drain does in its thread once the token has tripped.
        calls = entry.token._callbacks
        if first == "the drain":
            calls.append(lambda _: gate.open())
        else:
            calls.insert(0, lambda _: gate.until_arrived())
        worker.drain_threads()
        log.over(run)
        written = [event.type for event in log.of(run)]
        assert written == ["agent_start", "log", "log", "stop_observed", "agent_end"]

    def test_a_run_with_a_stop_request_is_stopped(
        self, hire: Any, start: Start, stop: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("stuck")
        async def stuck(tools: Tools) -> None:
            tools.log("at work")
            while not should_stop():
                await asyncio.sleep(0.002)
            await gate.wait()

        worker = hire()
        run = start("stuck")
        log.until_event(run, "log")
        with in_thread(worker.drain_threads) as drained:
            gate.until_arrived()  # the agent has observed the shutdown
            stop(run)
            gate.open()
            drained()
        assert log.over(run).status == Status.STOPPED
        assert_consistent(run)

    def test_code_that_does_not_return_is_cancelled(
        self, hire: Any, start: Start, log: Journal
    ) -> None:
        cancelled: list[str] = []

        @agent("deaf")
        async def deaf(tools: Tools) -> None:
            tools.log("at work")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append("here")
                raise

        worker = hire()
        run = start("deaf")
        log.until_event(run, "log", message="at work")
        worker.drain_threads()
        record = log.over(run)
        assert cancelled == ["here"]
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert_consistent(run)

    def test_a_run_is_ended_though_its_thread_never_returns(
        self, hire: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may_continue = threading.Event()

        @agent("computing")
        def computing(tools: SyncTools) -> None:
            tools.log("at work")
            may_continue.wait(30)
            tools.data_store.set("late", 1)

        monkeypatch.setattr(worker_module, "CANCEL_SECONDS", 0.5)
        worker = hire()
        run = start("computing")
        log.until_event(run, "log", message="at work")
        worker.stop_threads()
        may_continue.set()
        record = log.over(run)
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert_consistent(run)

    def test_a_tree_ends_from_below(self, hire: Any, start: Start, log: Journal) -> None:
        @agent("leaf")
        async def leaf(tools: Tools) -> None:
            tools.log("at work")
            try:
                while True:
                    await tools.data_store.get("x")
                    await asyncio.sleep(0.002)
            finally:
                async with cleanup():
                    await asyncio.sleep(0.05)
                    await tools.data_store.set("saved", 1)

        @agent("caller")
        async def caller(tools: Tools) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(tools.agents.call("leaf"))

        worker = hire()
        run = start("caller")
        log.until(lambda: sum(e.type == "log" for e in log.events) == 3, "the children")
        worker.drain_threads()
        log.over(run)
        assert log.order_of_ends() == ["leaf"] * 3 + ["caller"]
        records = RunRecord.objects.all()
        assert {r.status for r in records} == {Status.ERROR}, "no one requested a stop"
        assert {r.error["code"] for r in records} == {"worker_shutdown"}
        assert_consistent(run)

    def test_may_be_requested_twice(self, hire: Any) -> None:
        worker = hire()
        for _ in range(2):
            worker.drain_threads()
            worker.stop_threads()
        row = WorkerRecord.objects.get(pk=worker.id)
        assert row.lost_at is not None
