"""Runs of a real worker that reach a limit, in each state that a run may be in."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents import AgentStopped, CallTimedOut, SyncTools, Tools, agent, cleanup, should_stop
from agents.options import Limits
from runs.actions import limit_stops, starting
from runs.db.clock import database_now, monotonic_offset
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.status import Status
from runs.worker import heartbeat
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.limits import SHORT, ended_by, hurry
from tests.support.running import Gate, Start


class TestDeadline:
    def test_stops_a_run_that_calls_tools(self, worker: Any, start: Start, log: Journal) -> None:
        @agent("endless", deadline_seconds=SHORT)
        async def endless(tools: Tools) -> str:
            try:
                while True:
                    await tools.data_store.get("x")
                    await asyncio.sleep(0.002)
            finally:
                async with cleanup():
                    await tools.data_store.set("saved", 1)

        record = ended_by(log.over(start("endless")))
        assert record.stop_observed_at is not None
        assert (record.stop_mode, record.stop_reason) == ("graceful", "the deadline was reached")

    def test_stops_a_thread(self, worker: Any, start: Start, log: Journal) -> None:
        @agent("computing", deadline_seconds=SHORT)
        def computing(tools: SyncTools) -> str:
            while not should_stop():
                time.sleep(0.001)
            return "so far"

        assert ended_by(log.over(start("computing"))).partial_result == "so far"

    def test_lets_the_call_in_flight_finish(self, worker: Any, start: Start, log: Journal) -> None:
        gate = Gate()

        @agent("caller", deadline_seconds=3600)
        async def caller(tools: Tools) -> None:
            await tools.agents.call("slow")

        @agent("slow")
        async def slow(tools: Tools) -> None:
            await gate.wait()
            await tools.data_store.get("x")

        run = start("caller")
        gate.until_arrived()
        hurry(run)
        log.until_event(run, "stop_requested")
        gate.open()
        ended_by(log.over(run))

    def test_that_nothing_observes_leaves_a_success(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("late", deadline_seconds=3600)
        async def late(tools: Tools) -> str:
            await gate.wait()
            return "done"

        run = start("late")
        gate.until_arrived()
        hurry(run)
        log.until_event(run, "stop_requested")
        gate.open()
        record = assert_consistent(log.over(run))
        assert (record.status, record.result) == (Status.SUCCESS, "done")
        assert record.stop_finished_first
        assert record.stop_limit["kind"] == "wall"

    def test_counts_from_the_first_start_and_over_attempts(
        self, hire: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.worker.worker.UNWIND_SECONDS", 0.2)

        @agent("again", on_worker_loss="requeue", max_attempts=9, deadline_seconds=3600)
        async def again(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        first = hire()
        run = start("again")
        log.until_at_work(1)
        run.refresh_from_db()
        deadline = run.deadline_at
        assert deadline == pytest.approx(
            run.started_at + timedelta(hours=1), abs=timedelta(seconds=1)
        )
        first.stop_threads()
        run.refresh_from_db()
        assert (run.status, run.deadline_at) == (Status.QUEUED, deadline)
        hire()
        log.until_at_work(2)
        run.refresh_from_db()
        assert (run.attempt, run.deadline_at) == (2, deadline)

    def test_ends_a_run_that_is_queued_again(self, alice: User, log: Journal) -> None:
        @agent("waiting", deadline_seconds=SHORT)
        async def waiting(tools: Tools) -> None: ...

        run, _ = starting.start_run("waiting", {}, owner=alice)
        RunRecord.objects.filter(pk=run.pk).update(
            attempt=1, deadline_at=database_now() - timedelta(seconds=0.1)
        )
        assert limit_stops.stop_overdue() == 1
        assert ended_by(log.over(run)).stop_observed_at is None

    def test_keeps_a_run_that_is_claimed_too_late_from_starting(
        self, hire: Any, alice: User, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        called: list[int] = []

        @agent("waiting", deadline_seconds=SHORT)
        async def waiting(tools: Tools) -> None:
            called.append(1)

        run, _ = starting.start_run("waiting", {}, owner=alice)
        over = database_now() - timedelta(seconds=0.1)
        RunRecord.objects.filter(pk=run.pk).update(attempt=1, deadline_at=over)
        monkeypatch.setattr(limit_stops, "stop_overdue", lambda **_: 0)  # no process looks
        hire()
        ended_by(log.over(run))
        assert not called

    def test_is_the_callers_if_that_is_earlier(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        @agent("caller", deadline_seconds=SHORT)
        async def caller(tools: Tools) -> None:
            handle = await tools.agents.start("below", {"seconds": 0})
            await asyncio.gather(handle.wait(), tools.agents.call("below", {"seconds": 0}))

        @agent("below", deadline_seconds=3600)
        async def below(tools: Tools, seconds: float) -> None:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        record = ended_by(log.over(start("caller")))
        children = RunRecord.objects.filter(parent=record)
        assert [child.deadline_at for child in children] == [record.deadline_at] * 2
        assert {(c.stop_via, c.stop_root_request) for c in children} == {("parent", record.pk)}

    def test_of_a_called_run_leaves_its_caller_alone(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            try:
                await tools.agents.call("below")
            except Exception as error:
                return type(error).__name__
            return "?"

        @agent("below", deadline_seconds=SHORT)
        async def below(tools: Tools) -> None:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        record = log.over(start("caller"))
        assert (record.status, record.result) == ("success", "SubAgentStopped")
        ended_by(RunRecord.objects.get(parent=record))

    def test_is_near_once(self, worker: Any, start: Start, log: Journal) -> None:
        @agent("endless", deadline_seconds=3.0)
        async def endless(tools: Tools) -> None:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        run = start("endless")
        log.over(run)
        [near] = log.of(run, "limit_near")
        assert near.data["limit"] == 3
        assert 2.4 <= near.data["value"] < 3
        assert near.data["kind"] == "wall"

    def test_is_told_to_the_agent(self, worker: Any, start: Start, log: Journal) -> None:
        @agent("asking", deadline_seconds=60)
        async def asking(tools: Tools) -> list[Any]:
            left = tools.remaining()
            return [left.seconds, left.tokens, left.cost, left.calls]

        @agent("free")
        def free(tools: SyncTools) -> list[Any]:
            left = tools.remaining()
            return [left.seconds, left.tokens, left.cost, left.calls]

        seconds, *others = log.over(start("asking")).result
        assert 50 < seconds <= 60
        assert others == [None, None, None]
        assert log.over(start("free")).result == [None, None, None, None]

    def test_holds_while_the_worker_drains(
        self, options: Any, hire: Any, start: Start, log: Journal
    ) -> None:
        options(DRAIN_SECONDS=20)

        @agent("endless", deadline_seconds=3600)
        async def endless(tools: Tools) -> None:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        worker = hire()
        run = start("endless")
        log.until_event(run, "agent_start")
        hurry(run)
        worker.drain_threads()
        ended_by(log.over(run))

    def test_that_is_over_while_a_drain_unwinds_is_why_the_run_stopped(
        self, hire: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limit_stops, "stop_overdue", lambda **_: 0)  # the look comes too late
        unwinding = Gate()

        @agent("unwinding", deadline_seconds=3600)
        async def unwinds(tools: Tools) -> None:
            tools.log("at work")
            try:
                while True:
                    await tools.data_store.get("x")
                    await asyncio.sleep(0.002)
            except AgentStopped:
                await unwinding.wait()
                raise

        worker = hire()
        run = start("unwinding")
        log.until_at_work(1)
        thread = threading.Thread(target=worker.drain_threads)
        thread.start()
        unwinding.until_arrived()
        hurry(run)
        run.refresh_from_db()
        entry = local_runs.get(run.pk)
        assert entry is not None
        eventually(lambda: entry.deadline_at == run.deadline_at, "the worker has looked")
        _sleep_until(run.deadline_at)
        unwinding.open()
        thread.join()
        ended_by(log.over(run))


class TestTokenThatRefuses:
    """The worker's heart did not beat, and its look did not come: the token has the deadline."""

    @pytest.fixture(autouse=True)
    def no_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limit_stops, "stop_overdue", lambda **_: 0)

    def test_admits_nothing_and_the_run_ends_by_its_budget(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        @agent("endless", deadline_seconds=4 * SHORT)  # its code is to begin before
        async def endless(tools: Tools) -> str:
            try:
                while True:
                    await tools.data_store.get("x")
                    await asyncio.sleep(0.002)
            except AgentStopped:
                async with cleanup():
                    await tools.data_store.set("saved", 1)
                return "half"

        record = ended_by(log.over(start("endless")), limit=4 * SHORT)
        assert record.partial_result == "half"
        assert _last_call(log, record) <= record.deadline_at

    def test_refuses_as_it_knew_the_deadline_though_that_was_moved(
        self, worker: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limit_stops, "look_at_limits", lambda worker: 60.0)

        @agent("endless", deadline_seconds=3600)
        async def endless(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        run = start("endless")
        log.until_at_work(1)
        entry = local_runs.get(run.pk)
        assert entry is not None
        before = database_now() + timedelta(seconds=SHORT)  # the row was moved since then
        entry.know_limits(Limits(SHORT), before, monotonic_offset())
        record = assert_consistent(log.over(run))
        assert (record.status, record.stop_via) == ("stopped", "budget")
        assert record.stop_limit["limit"] == SHORT

    def test_refuses_as_the_last_look_has_told_it(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        @agent("endless", deadline_seconds=3600)
        async def endless(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        run = start("endless")
        log.until_at_work(1)
        hurry(run)
        ended_by(log.over(run))

    def test_does_not_refuse_what_the_last_look_has_allowed(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        @agent("patient", deadline_seconds=2 * SHORT)
        async def patient(tools: Tools) -> str:
            tools.log("at work")
            end = time.monotonic() + 3 * SHORT
            while time.monotonic() < end:
                await tools.data_store.get("x")
                await asyncio.sleep(0.01)
            return "done"

        run = start("patient")
        log.until_at_work(1)
        RunRecord.objects.filter(pk=run.pk).update(deadline_at=None, deadline_seconds=None)
        assert log.over(run).status == Status.SUCCESS


class TestCall:
    def test_that_takes_too_long_is_cut_and_the_agent_goes_on(
        self, hire: Any, start: Start, log: Journal, llm_server: Any
    ) -> None:
        llm_server.hold()

        @agent("patient", call_seconds=SHORT)
        async def patient(tools: Tools) -> str:
            try:
                await tools.call_llm([{"role": "user", "content": "Hello"}])
            except CallTimedOut as error:
                return error.code
            return "?"

        hire()
        run = start("patient")
        record = assert_consistent(log.over(run))
        assert (record.status, record.result) == ("success", "call_timed_out")
        [call] = log.of(run, "llm_call")
        assert (call.data["outcome"], call.data["error"]["type"]) == ("error", "CallTimedOut")
        llm_server.release()
        assert SHORT * 1000 <= call.data["duration_ms"] < 5_000
        assert record.usage_estimated
        assert record.input_tokens > 0


def test_a_beat_comes_when_a_limit_is_reached(
    hire: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls alone would find the deadline up to half a second later; here never."""
    monkeypatch.setattr(heartbeat, "POLL_SECONDS", 1000.0)

    @agent("computing", deadline_seconds=3600)
    async def computing(tools: Tools) -> None:
        tools.log("at work")
        while not should_stop():  # no guard refuses
            await asyncio.sleep(0.002)

    worker = hire()
    run = start("computing")
    log.until_at_work(1)
    hurry(run)
    worker.poll()  # so that the worker has looked once since the claim
    ended_by(log.over(run))


def _sleep_until(at: datetime) -> None:
    time.sleep(max(0.0, (at - database_now()).total_seconds()) + 0.01)


def _last_call(log: Journal, run: RunRecord) -> datetime:
    calls = [e.data for e in log.of(run, "data_store") if not e.data.get("cleanup")]
    return max(datetime.fromisoformat(call["started_at"]) for call in calls)
