"""The end of a run."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agents import AgentStopped
from agents.exceptions import RunIsOver
from tests.support.agent_run import AgentRun, within
from tests.support.guarded_calls import SECONDS


def test_after_the_end_tools_cant_be_used(run: AgentRun) -> None:
    run.guard.close()
    with pytest.raises(RunIsOver, match="run is over"), run.guard.call("http"):
        pass
    run.stop()
    with pytest.raises(RunIsOver), run.guard.call("http"):
        pass
    assert run.sink.events == []


async def test_settling_waits_for_the_calls_in_flight_and_refuses_new_ones(run: AgentRun) -> None:
    first, second = run.guard.call("http").start(), run.guard.call("http").start()
    settling = asyncio.create_task(run.guard.settle())
    await asyncio.sleep(0)
    with pytest.raises(RunIsOver):
        run.guard.call("http").start()
    first.finish()
    await asyncio.sleep(0)
    assert not settling.done()
    second.finish()
    await within(SECONDS, settling)
    await within(SECONDS, run.guard.settle())


async def test_settling_waits_for_the_calls_of_threads(run: AgentRun) -> None:
    let_go = threading.Event()
    started = threading.Barrier(5)

    def call() -> None:
        with run.guard.call("http"):
            started.wait(SECONDS)
            let_go.wait(SECONDS)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(SECONDS)
    assert len(run.trace.in_flight()) == 4
    settling = asyncio.create_task(run.guard.settle())
    await asyncio.sleep(0)
    assert not settling.done()
    let_go.set()
    await within(SECONDS, settling)
    assert run.trace.in_flight() == []
    assert len(run.events("http")) == 4
    for thread in threads:
        thread.join(SECONDS)


def test_calls_of_threads_that_race_a_stop_are_either_finished_or_never_started() -> None:
    for _ in range(100):
        run = AgentRun()
        start = threading.Barrier(5)
        touched: list[int] = []

        def call(
            run: AgentRun = run, start: threading.Barrier = start, touched: list[int] = touched
        ) -> None:
            start.wait(SECONDS)
            try:
                while True:
                    with run.guard.call("http"):
                        touched.append(1)
            except AgentStopped:
                pass

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        start.wait(SECONDS)
        run.stop()
        for thread in threads:
            thread.join(SECONDS)
        assert len(run.events("http")) == len(touched)
        assert len(run.events("stop_observed")) == 1
        assert run.guard.calls_started_after_acknowledgement == 0
        assert run.trace.in_flight() == []
