"""An agent that blocks its loop is named in its own log; only other agents wait for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from agents import SyncTools, Tools, agent, check_should_stop
from runs.process.metrics import REGISTRY
from runs.status import Status
from runs.worker import watchdog
from runs.worker.watchdog import INTERVAL_SECONDS, Watchdog
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "THRESHOLD_SECONDS", 0.2)


def test_a_blocking_agent_is_named_in_its_own_log_while_it_blocks(
    worker: Worker, start: Start, log: Journal
) -> None:
    gate = Gate()

    @agent("innocent")
    async def innocent(tools: Tools) -> str:
        await gate.wait()
        await tools.data_store.get("x")
        return "continued"

    @agent("blocking")
    async def blocking(tools: Tools) -> str:
        tools.log("at work")
        gate.wait_here()  # blocks the loop
        await asyncio.sleep(0.1)
        return "done"

    other = start("innocent")
    gate.until_arrived()
    blocks = _metric("halting_loop_blocks_total")
    run = start("blocking")
    event = log.until_event(run, "loop_blocked", is_over=False)
    assert event.data["blocked_ms"] >= 200
    assert any("wait_here" in line for line in event.data["where"])
    eventually(lambda: _metric("halting_loop_blocked_seconds") > 0.2, "a metric shows it")
    assert _metric("halting_loop_blocks_total") == blocks + 1
    gate.open()
    over = log.until_event(run, "loop_blocked", is_over=True)
    assert over.data["blocked_ms"] >= event.data["blocked_ms"]
    assert _metric("halting_loop_blocked_seconds") == 0
    ends = log.until_over(run, other)
    assert [end.result for end in ends] == ["done", "continued"]
    assert not log.of(other, "loop_blocked")
    assert len(log.of(run, "loop_blocked")) == 2
    assert_consistent(run)


def _metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def test_a_block_before_an_agent_starts_is_not_logged_for_it(
    worker: Worker, start: Start, log: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def read(number: int) -> int:
        if threading.current_thread().name == "runs-agents":
            gate.wait_here()
        return number

    @agent("slow-to-start")
    async def slow_to_start(tools: Tools, number: Annotated[int, AfterValidator(read)]) -> int:
        return number

    run = start("slow-to-start", number=7)
    gate.until_arrived()
    eventually(lambda: "the agent loop" in caplog.text, "the watchdog has seen it")
    gate.open()
    assert log.over(run).result == 7
    assert [event.type for event in log.of(run)] == ["agent_start", "agent_end"]
    assert "blocked, by no known run" in caplog.text


def test_a_blocked_loop_delays_no_stop_request_and_no_heartbeat(
    options: Any, hire: Any, start: Start, stop: Any, log: Journal
) -> None:
    options(LEASE_SECONDS=1.5)
    gate = Gate()

    @agent("blocking")
    async def blocking(tools: Tools) -> str:
        gate.wait_here()
        return "done"

    @agent("computing")
    def computing(tools: SyncTools) -> None:
        tools.log("at work")
        while True:
            check_should_stop()

    hire()
    other = start("computing")
    log.until_event(other, "log")
    run = start("blocking")
    gate.until_arrived()
    started_at = time.monotonic()
    stop(other)  # it has its own thread, and observes the stop
    stop(run)
    assert time.monotonic() - started_at < 1
    log.until_event(other, "stop_observed")
    threading.Event().wait(2)  # longer than the lease
    run.refresh_from_db()
    assert run.status == Status.RUNNING
    gate.open()
    ends = log.until_over(run, other)
    assert [end.status for end in ends] == [Status.SUCCESS, Status.STOPPED]
    assert ends[0].stop_finished_first
    for end in ends:
        assert_consistent(end)


def test_a_def_agent_that_computes_blocks_no_other(
    worker: Worker, start: Start, log: Journal
) -> None:
    gate = Gate()

    @agent("computing")
    def computing(tools: SyncTools) -> str:
        gate.wait_here()
        return "done"

    @agent("quick")
    async def quick(tools: Tools) -> str:
        return "done"

    run = start("computing")
    gate.until_arrived()
    assert log.over(start("quick")).result == "done"
    gate.open()
    assert log.over(run).result == "done"
    assert not log.of(run, "loop_blocked")


class TestWatchdog:
    is_needed = True

    @pytest.fixture
    def loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        self.dog = Watchdog(loop, thread, lambda: self.is_needed)
        self.dog.start()
        yield loop
        self.dog.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def test_a_block_by_an_unknown_agent_is_logged(
        self, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate()
        seen = threading.Event()
        report = self.dog._report

        def watched(*arguments: Any, **options: Any) -> None:
            report(*arguments, **options)
            seen.set()

        self.dog._report = watched  # type: ignore[method-assign]
        loop.call_soon_threadsafe(gate.wait_here)
        assert seen.wait(10)
        gate.open()
        assert "blocked, by no known run" in caplog.text

    def test_without_runs_it_asks_nothing(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_needed = False
        time.sleep(2 * INTERVAL_SECONDS)  # a question that was asked before is answered
        asked = []
        loop.call_soon_threadsafe = lambda call, *_: asked.append(call)  # type: ignore[method-assign, assignment]
        time.sleep(4 * INTERVAL_SECONDS)
        assert not asked
        self.is_needed = True
        eventually(lambda: asked, "it asks again")
        del loop.call_soon_threadsafe  # type: ignore[method-assign]
        for call in asked:
            call()

    def test_ends_while_the_loop_is_blocked(self, loop: asyncio.AbstractEventLoop) -> None:
        gate = Gate()
        loop.call_soon_threadsafe(gate.wait_here)
        gate.until_arrived()
        self.dog.close()
        assert not self.dog._thread.is_alive()
        gate.open()

    def test_can_be_closed_without_a_start(self) -> None:
        loop = asyncio.new_event_loop()
        Watchdog(loop, threading.current_thread(), lambda: True).close()
        loop.close()
