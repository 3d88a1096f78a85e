"""The agent thread and its worker: what agents do to it, and what becomes of them when it goes."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from typing import Any

import pydantic
import pytest
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from agents import AgentStopped, SubAgentFailed, SyncTools, Tools, agent, cleanup, should_stop
from runs.actions import leases, recovery, starting, stopping
from runs.delivery import local_runs, stops
from runs.models import DataStoreEntry, RunInput, RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import executor
from runs.worker import worker as worker_module
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.rows import make_dead_worker, make_run, make_worker, requested
from tests.support.running import Gate, Start, in_thread


@pytest.fixture
def endless() -> None:
    @agent("endless", on_worker_loss="fail")
    async def endless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)


class TestAgentsThatMisbehave:
    @pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
    def test_a_sub_task_that_ends_the_process_ends_its_run_only(
        self, error: str, worker: Worker, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("beside")
        async def beside(tools: Tools) -> str:
            await gate.wait()
            await tools.data_store.get("x")
            return "went on"

        @agent("quitter")
        async def quitter(tools: Tools) -> None:
            async def quit_it() -> None:
                raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[error](3)

            await asyncio.gather(quit_it(), asyncio.sleep(0))

        other = start("beside")
        gate.until_arrived()
        for _ in range(3):
            record = log.over(start("quitter"))
            assert record.status == Status.ERROR
            assert record.error["type"] == error
            assert_consistent(record)
        gate.open()
        assert log.over(other).result == "went on"

    def test_a_callback_that_ends_the_process_does_not(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        @agent("caller-back")
        async def caller_back(tools: Tools) -> str:
            def quit_it() -> None:
                raise SystemExit(3)

            asyncio.get_running_loop().call_soon(quit_it)
            await asyncio.sleep(0.01)
            return "went on"

        assert log.over(start("caller-back")).result == "went on"

    @pytest.mark.parametrize(
        ("what", "ends"),
        [
            ("nan", "error"),
            ("cycle", "error"),
            ("object", "error"),
            ("deep", "error"),
            ("wrong type", "error"),
            ("quits when dumped", "error"),
            ("nul", "success"),
            ("surrogate", "success"),
            ("large", "success"),
            ("huge integer", "error"),
            ("generator", "error"),
        ],
    )
    def test_what_json_cannot_hold_is_a_clear_error(
        self, what: str, ends: str, worker: Worker, start: Start, log: Journal
    ) -> None:
        class Quitting(pydantic.BaseModel):
            @pydantic.model_serializer
            def quit_it(self) -> Any:
                raise SystemExit(3)

        @agent("giver")
        async def giver(tools: Tools, what: str) -> Any:
            cycle: list[Any] = []
            cycle.append(cycle)
            deep: list[Any] = []
            for _ in range(100_000):
                deep = [deep]
            return {
                "nan": math.nan,
                "cycle": cycle,
                "object": object(),
                "deep": deep,
                "nul": "a\0b",
                "surrogate": "a\ud800b",
                "large": "x" * 1_000_000,
                "huge integer": 10**5000,
                "generator": (n for n in range(3)),
                "quits when dumped": Quitting(),
                "wrong type": {1, 2} if what != "wrong type" else object,
            }[what]

        record = log.over(start("giver", what=what))
        assert record.status == ends
        if ends == "error":
            assert record.error["code"] == "invalid_output"
        if what in ("nul", "surrogate"):
            assert record.result == "a\ufffdb"
        assert_consistent(record)

    def test_an_exception_that_cannot_be_printed_is_told_all_the_same(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        class Unprintable(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

            __repr__ = __str__

        @agent("speechless")
        async def speechless(tools: Tools) -> None:
            raise Unprintable

        @agent("speechless-inside")
        async def speechless_inside(tools: Tools) -> None:
            try:
                raise Unprintable
            except Unprintable as error:
                raise LookupError("outer") from error

        record = log.over(start("speechless"))
        assert (record.status, record.error["type"]) == (Status.ERROR, "Unprintable")
        assert_consistent(record)
        record = log.over(start("speechless-inside"))
        assert record.error["message"] == "outer"
        assert_consistent(record)

    def test_an_unexpected_error_before_the_agent_begins_ends_its_run(
        self, options: Any, hire: Any, start: Start, log: Journal
    ) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        options(LLM={"BASE_URL": "gopher://x", "API_KEY": "", "MODEL": ""})
        hire()
        record = log.over(start("quick"))
        assert record.status == Status.ERROR
        assert "http" in record.error["message"]
        assert_consistent(record)

    def test_an_agent_that_is_gone_since_its_run_was_queued_is_an_error(
        self, alice: User, worker: Worker, log: Journal
    ) -> None:
        run = make_run(alice, agent="removed")
        worker.wake()
        record = log.over(run)
        assert record.error["code"] == "agent_not_found"
        assert_consistent(record)

    def test_a_run_without_its_input_is_an_error(
        self, options: Any, start: Start, hire: Any, log: Journal, caplog: Any
    ) -> None:
        options(LEASE_SECONDS=1.5)

        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        run = start("quick")
        run.input_record.delete()
        hire()
        assert log.over(run).error["code"] == "worker_lost"
        assert "can't be started" in caplog.text
        assert_consistent(run)
        assert log.over(start("quick")).result == "done"

    def test_a_run_without_its_input_that_another_takes_for_itself_is_one_too(
        self, options: Any, start: Start, hire: Any, log: Journal
    ) -> None:
        options(LEASE_SECONDS=1.5, MAX_CONCURRENT=1)

        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        @agent("caller")
        async def caller(tools: Tools) -> str:
            handle = await tools.agents.start("quick")
            await asyncio.to_thread(_delete_input, handle.run)
            try:
                return str(await handle)
            except SubAgentFailed as error:
                return str(error.error["code"])

        hire()
        run = start("caller")
        assert log.over(run).result == "worker_lost"
        assert_consistent(run)

    def test_a_run_whose_beginning_fails_is_ended(
        self, options: Any, start: Start, hire: Any, log: Journal, monkeypatch: Any
    ) -> None:
        options(LEASE_SECONDS=1.5)

        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        worker: Worker = hire()
        with monkeypatch.context() as patch:
            patch.setattr(worker.recorder, "open", lambda *_: 1 / 0)
            run = start("quick")
            assert log.over(run).error["code"] == "worker_lost"
        assert_consistent(run)
        assert log.over(start("quick")).result == "done"

    def test_a_task_left_behind_ends_with_its_run(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        ended = threading.Event()

        @agent("leaver")
        async def leaver(tools: Tools) -> str:
            async def linger() -> None:
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.set()

            leaver.task = asyncio.create_task(linger())  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            return "left"

        record = log.over(start("leaver"))
        assert record.result == "left"
        assert ended.is_set()


class TestMany:
    def test_two_hundred_at_once_all_end(
        self, worker: Worker, start: Start, stop: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("one-of-many")
        async def one_of_many(tools: Tools, n: int) -> int:
            await gate.wait()
            await tools.data_store.set(f"k{n}", n)
            return n

        runs = [start("one-of-many", n=n) for n in range(200)]
        gate.until_arrived(200)
        for run in runs[::4]:
            stop(run)
        gate.open()
        records = log.until_over(*runs)
        counts = Counter(record.status for record in records)
        assert counts == {Status.SUCCESS: 150, Status.STOPPED: 50}
        assert DataStoreEntry.objects.count() == 150
        for run in runs:
            assert_consistent(run)

    def test_no_more_are_claimed_than_fit(
        self, options: Any, hire: Any, start: Start, log: Journal
    ) -> None:
        options(MAX_CONCURRENT=3)
        gate = Gate()
        at_once: list[int] = []

        @agent("slow")
        async def slow(tools: Tools) -> None:
            at_once.append(RunningCount.now())
            await gate.wait()

        class RunningCount:
            @staticmethod
            def now() -> int:
                return len(local_runs.all_runs())

        runs = [start("slow") for _ in range(8)]
        hire()
        gate.until_arrived(3)
        assert RunRecord.objects.filter(status=Status.RUNNING).count() == 3
        gate.open()
        log.until_over(*runs)
        assert max(at_once) <= 3

    @pytest.mark.usefixtures("on_both_databases")
    def test_several_workers_share_and_execute_each_run_once(
        self, hire: Any, start: Start, log: Journal
    ) -> None:
        executed: Counter[int] = Counter()

        @agent("counted")
        async def counted(tools: Tools, n: int) -> int:
            executed[n] += 1
            await tools.data_store.get("x")
            return n

        runs = [start("counted", n=n) for n in range(60)]
        workers = [hire() for _ in range(3)]
        records = log.until_over(*runs)
        assert executed == dict.fromkeys(range(60), 1)
        assert {record.attempt for record in records} == {1}
        assert {record.worker_id for record in records} <= {worker.id for worker in workers}
        assert_all_consistent()


class TestTakeover:
    @pytest.mark.usefixtures("on_both_databases")
    def test_what_a_dead_neighbour_left_is_taken_over_within_three_seconds(
        self, alice: User, hire: Any, log: Journal
    ) -> None:
        @agent("again", on_worker_loss="requeue", max_attempts=3)
        async def again(tools: Tools) -> str:
            await tools.data_store.get("x")
            return "done"

        dead = make_dead_worker()
        make = lambda **fields: make_run(  # noqa: E731
            alice, status=Status.RUNNING, worker=dead, agent="again", **fields
        )
        fails, asked = make(), make(**requested(alice))
        RunRecord.objects.filter(pk=asked.pk).update(stop_root_request=asked.pk)
        returns = make(requeue_on_loss=True, max_attempts=3)
        child = make(parent=returns)
        queued = make_run(alice, agent="again")
        began = time.monotonic()
        hire()
        records = log.until_over(fails, asked, child, returns, queued)
        assert time.monotonic() - began < 3
        fails, asked, child, returns, queued = records
        assert (fails.status, fails.error["code"]) == (Status.ERROR, "worker_lost")
        assert (child.status, child.error["code"]) == (Status.ERROR, "worker_lost")
        assert asked.status == Status.STOPPED
        assert (returns.status, returns.result, returns.attempt) == (Status.SUCCESS, "done", 2)
        assert (queued.status, queued.attempt) == (Status.SUCCESS, 1)
        assert [e.type for e in returns.events.order_by("seq")] == [
            "log",
            "agent_start",
            "data_store",
            "agent_end",
        ]
        for run in records:
            if run != returns:  # its child is of an earlier attempt
                assert_consistent(run)

    def test_the_attempts_of_a_run_come_to_an_end(
        self, alice: User, hire: Any, log: Journal
    ) -> None:
        dead = make_dead_worker()
        run = make_run(
            alice,
            status=Status.RUNNING,
            worker=dead,
            requeue_on_loss=True,
            attempt=3,
            max_attempts=3,
        )
        hire()
        record = log.over(run)
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")

    def test_a_frozen_worker_elsewhere_is_found_by_its_lease(
        self, alice: User, options: Any, hire: Any, log: Journal
    ) -> None:
        options(LEASE_SECONDS=1.5)
        late = timezone.now() - timezone.timedelta(seconds=1)
        frozen = make_worker(host_identity="elsewhere", lease_until=late)
        run = make_run(alice, status=Status.RUNNING, worker=frozen)
        hire()
        assert log.over(run).error["code"] == "worker_lost"

    @pytest.mark.usefixtures("endless")
    def test_a_worker_that_was_declared_lost_writes_nothing_and_stops_its_agents(
        self, options: Any, hire: Any, start: Start, log: Journal, caplog: Any
    ) -> None:
        options(LEASE_SECONDS=1.5)
        worker = hire()
        run = start("endless")
        log.until_event(run, "log")
        entry = local_runs.get(run.pk)
        assert entry is not None
        first = worker.id
        with local_runs.watching(run.pk) as gone:
            WorkerRecord.objects.filter(pk=first).update(lost_at=timezone.now())
            recovery.recover_runs()
            record = log.over(run)
            assert gone.wait(10), "the agent was not stopped"
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")
        assert entry.token.stopped
        assert_consistent(run)
        eventually(lambda: worker.id != first, "the worker registers anew")
        again = start("endless")
        log.until_event(again, "log")
        stopping.request_stop(again.pk, via="api", check_permission=False)
        assert log.over(again).worker_id == worker.id
        assert "never retrieved" not in caplog.text

    @pytest.mark.usefixtures("endless")
    def test_a_worker_whose_database_hangs_stops_its_agents_before_the_lease_is_over(
        self, options: Any, hire: Any, start: Start, log: Journal, monkeypatch: Any
    ) -> None:
        options(LEASE_SECONDS=1.5)
        gate, met = Gate(), threading.Event()

        @agent("asking")
        async def asking(tools: Tools) -> None:
            tools.log("at work")
            while not should_stop():
                await asyncio.sleep(0.002)
            met.set()

        hire()
        run = start("asking")
        log.until_event(run, "log")
        monkeypatch.setattr(leases, "renew", lambda *_, **__: gate.wait_here() or True)
        gate.until_arrived()
        try:
            assert met.wait(3)
            worker = WorkerRecord.objects.get(pk=RunRecord.objects.get(pk=run.pk).worker_id)
            assert timezone.now() < worker.lease_until
        finally:
            gate.open()
        record = log.over(run)
        assert not record.stop_requested
        # Nobody has shut it down.
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")

    def test_a_stray_of_its_own_is_ended(
        self, alice: User, options: Any, hire: Any, log: Journal
    ) -> None:
        options(LEASE_SECONDS=1.5)
        worker = hire()
        row = WorkerRecord.objects.get(pk=worker.id)
        run = make_run(alice, status=Status.RUNNING, worker=row)
        assert log.over(run).error["code"] == "worker_lost"


class TestThreadsOfAWorker:
    @pytest.mark.parametrize("error", [OperationalError, InterfaceError, RuntimeError])
    def test_outlive_what_they_meet(
        self,
        error: type[Exception],
        hire: Any,
        start: Start,
        stop: Any,
        log: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        @agent("endless")
        async def endless(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.002)

        claim, meet = leases.claim, stops.deliver_missed
        failures = Counter[str]()

        def claim_badly(*arguments: Any) -> Any:
            if failures["claim"] < 2:
                failures["claim"] += 1
                raise error("away")
            return claim(*arguments)

        def meet_badly(self: Worker) -> None:
            if failures["meet"] < 2:
                failures["meet"] += 1
                raise error("away")
            meet(self)

        monkeypatch.setattr(leases, "claim", claim_badly)
        monkeypatch.setattr(stops, "deliver_missed", meet_badly)
        monkeypatch.setattr(stops, "deliver", lambda *_: None)  # the heart has to find it
        hire()
        run = start("endless")
        log.until_event(run, "log")
        stop(run)
        assert log.over(run).status == Status.STOPPED
        assert failures == {"claim": 2, "meet": 2}


class TestDrain:
    @pytest.fixture(autouse=True)
    def quick_unwinding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_module, "UNWIND_SECONDS", 0.5)

    @pytest.mark.usefixtures("endless")
    def test_runs_that_end_in_time_end_as_they_would(
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

    def test_runs_that_do_not_are_unwound_with_their_partial_result(
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

    def test_runs_that_may_be_run_again_go_back_to_the_queue(
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

    def test_a_run_that_was_asked_to_stop_meanwhile_is_stopped(
        self, hire: Any, start: Start, stop: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("stuck")
        async def stuck(tools: Tools) -> None:
            while not should_stop():
                await asyncio.sleep(0.002)
            await gate.wait()

        worker = hire()
        run = start("stuck")
        eventually(lambda: local_runs.get(run.pk) is not None, "it runs")
        with in_thread(worker.drain_threads) as drained:
            gate.until_arrived()  # the shutdown has tripped its token, and it has met that
            stop(run)
            gate.open()
            drained()
        assert log.over(run).status == Status.STOPPED
        assert_consistent(run)

    def test_code_that_does_not_come_back_is_cancelled(
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

    def test_a_thread_that_never_comes_back_is_left_and_its_run_ended(
        self, hire: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on = threading.Event()

        @agent("computing")
        def computing(tools: SyncTools) -> None:
            tools.log("at work")
            go_on.wait(30)
            tools.data_store.set("late", 1)

        monkeypatch.setattr(worker_module, "CANCEL_SECONDS", 0.5)
        worker = hire()
        run = start("computing")
        log.until_event(run, "log", message="at work")
        worker.stop_threads()
        go_on.set()
        record = log.over(run)
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert_consistent(run)

    def test_a_tree_goes_down_from_below(self, hire: Any, start: Start, log: Journal) -> None:
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
        assert {r.status for r in records} == {Status.ERROR}, "it was nobody's wish"
        assert {r.error["code"] for r in records} == {"worker_shutdown"}
        assert_consistent(run)

    def test_twice_is_once(self, hire: Any) -> None:
        worker = hire()
        for _ in range(2):
            worker.drain_threads()
            worker.stop_threads()
        row = WorkerRecord.objects.get(pk=worker.id)
        assert row.lost_at is not None


class TestCommandLine:
    """A worker that claims nothing, and runs what it is given."""

    def test_runs_what_was_claimed_for_it_at_birth(
        self, alice: User, hire: Any, start: Start, log: Journal
    ) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        worker = hire(claims=False)
        waiting = start("quick")
        run, _ = starting.start_run("quick", {}, owner=alice, worker=worker.id)
        assert run.status == Status.RUNNING
        worker.adopt(run)
        record = log.over(run)
        assert (record.result, record.worker_id, record.attempt) == ("done", worker.id, 1)
        waiting.refresh_from_db()
        assert waiting.status == Status.QUEUED
        assert_consistent(run)

    def test_never_begins_what_was_asked_to_stop_between_claim_and_beginning(
        self, alice: User, hire: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran: list[int] = []

        @agent("quick")
        async def quick(tools: Tools) -> None:
            ran.append(1)

        monkeypatch.setattr(stops, "deliver", lambda *_: None)  # asked in another process
        monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)
        worker = hire(claims=False)
        run, _ = starting.start_run("quick", {}, owner=alice, worker=worker.id)
        stopping.request_stop(run.pk, via="cli", by=alice)
        claimed = RunRecord.objects.select_related("input_record", "stop_requested_by")
        worker.adopt(claimed.get(pk=run.pk))
        assert log.over(run).status == Status.STOPPED
        assert not ran
        assert_consistent(run)


def test_what_an_earlier_attempt_has_used_stays_on_the_record(
    alice: User, hire: Any, llm_server: Any, log: Journal
) -> None:
    @agent("asking", on_worker_loss="requeue")
    async def asking(tools: Tools) -> str:
        return (await tools.call_llm([{"role": "user", "content": "?"}])).text

    dead = make_dead_worker()
    run = make_run(
        alice,
        agent="asking",
        status=Status.RUNNING,
        worker=dead,
        requeue_on_loss=True,
        max_attempts=3,
        llm_calls=2,
        input_tokens=100,
        output_tokens=200,
        usage_estimated=True,
    )
    hire()
    record = log.over(run)
    assert record.status == Status.SUCCESS
    assert (record.llm_calls, record.input_tokens, record.output_tokens) == (3, 121, 213)
    assert record.usage_estimated


def test_a_large_input_is_not_validated_on_the_loop_of_all(
    worker: Worker, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    from agents.registry import AgentDefinition

    validate = AgentDefinition.validate_input

    def watched(self: Any, value: object) -> Any:
        threads.append(threading.current_thread().name)
        return validate(self, value)

    @agent("reader")
    async def reader(tools: Tools, text: str) -> int:
        return len(text)

    monkeypatch.setattr(AgentDefinition, "validate_input", watched)
    size = executor.LARGE_BYTES
    assert log.over(start("reader", text="x" * size)).result == size
    assert not [name for name in threads if name == "runs-agents"]
    assert log.over(start("reader", text="x")).result == 1


@pytest.fixture(autouse=True)
def no_lost_exceptions(caplog: pytest.LogCaptureFixture) -> Any:
    """asyncio only logs what nobody has awaited."""
    yield
    for when in ("setup", "call"):
        for record in caplog.get_records(when):
            told = record.getMessage()
            assert "never retrieved" not in told
            assert record.name != "asyncio" or record.levelno < logging.ERROR, told


def _delete_input(run: str) -> None:
    RunInput.objects.filter(run=run).delete()
    connection.close()
