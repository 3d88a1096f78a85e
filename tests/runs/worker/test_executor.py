"""The agents' thread: what agents do to it, and to each other."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from typing import Any

import pydantic
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from agents import SubAgentFailed, Tools, agent
from agents.cancellation import StopMode
from runs.delivery import local_runs
from runs.delivery.stop_message import StopRequest
from runs.models import DataStoreEntry, RunInput, RunRecord
from runs.status import Status
from runs.worker import executor
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_dead_worker, make_run
from tests.support.running import Gate, Start


class TestAgentsThatMisbehave:
    @pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
    def test_a_sub_task_that_exits_ends_only_its_run(
        self, error: str, worker: Worker, start: Start, log: Journal
    ) -> None:
        gate = Gate()

        @agent("other")
        async def other_agent(tools: Tools) -> str:
            await gate.wait()
            await tools.data_store.get("x")
            return "continued"

        @agent("quitter")
        async def quitter(tools: Tools) -> None:
            async def quit_it() -> None:
                raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[error](3)

            await asyncio.gather(quit_it(), asyncio.sleep(0))

        other = start("other")
        gate.until_arrived()
        for _ in range(3):
            record = log.over(start("quitter"))
            assert record.status == Status.ERROR
            assert record.error["type"] == error
            assert_consistent(record)
        gate.open()
        assert log.over(other).result == "continued"

    def test_a_callback_that_exits_does_not_end_the_process(
        self, worker: Worker, start: Start, log: Journal
    ) -> None:
        @agent("caller-back")
        async def caller_back(tools: Tools) -> str:
            def quit_it() -> None:
                raise SystemExit(3)

            asyncio.get_running_loop().call_soon(quit_it)
            await asyncio.sleep(0.01)
            return "continued"

        assert log.over(start("caller-back")).result == "continued"

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
    def test_a_result_that_json_cannot_hold_is_a_clear_error(
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

    def test_an_exception_that_cannot_be_printed_is_recorded(
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

    def test_an_unexpected_error_before_the_agent_starts_ends_its_run(
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

    def test_an_agent_that_is_no_longer_registered_is_an_error(
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

    def test_an_adopted_run_without_its_input_is_an_error(
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

    def test_a_run_whose_start_fails_is_ended(
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

    def test_an_unawaited_task_ends_with_its_run(
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

    def test_no_more_are_claimed_than_the_capacity(
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


def test_the_usage_of_an_earlier_attempt_stays_on_the_record(
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


def test_a_large_input_is_not_validated_on_the_shared_loop(
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


def _delete_input(run: str) -> None:
    RunInput.objects.filter(run=run).delete()
    connection.close()


def test_a_stop_that_comes_while_a_run_starts_is_logged_before_its_code_begins(
    worker: Worker, start: Start, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noted before the run has a log; its token trips a moment later."""
    opened = worker.recorder.open

    def open_late(entry: Any, trace: Any) -> None:
        entry.note(
            StopRequest(StopMode.GRACEFUL, "enough", "api", "alice", timezone.now(), entry.id)
        )
        entry.log_stop()
        opened(entry, trace)

    @agent("waiting")
    async def waiting(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")

    monkeypatch.setattr(worker.recorder, "open", open_late)
    run = start("waiting")
    log.until_event(run, "log")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert [event.type for event in log.of(run)][:2] == ["stop_requested", "agent_start"]
