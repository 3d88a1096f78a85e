"""How an agent ends whose process goes away."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agents import SyncTools, Tools, should_stop
from agents.cancellation import StopCause
from agents.exceptions import RunIsOver
from agents.runtime import Outcome
from tests.support.agent_run import within
from tests.support.started_run import SECONDS, SlowStore, Started, turns


async def test_a_shutdown_that_was_met_interrupts_and_keeps_the_partial_result() -> None:
    async def work(tools: Tools) -> Any:
        run.token.request(reason="the worker goes away", cause=StopCause.SHUTDOWN)
        try:
            await tools.data_store.get("a")
        finally:
            return ["half"]  # noqa: B012 - agents do such things

    run = Started(work)
    assert await run.outcome() == Outcome("interrupted", partial_result=["half"])


async def test_a_stop_request_after_an_observed_shutdown_makes_it_a_stop() -> None:
    async def work(tools: Tools) -> None:
        run.token.request(cause=StopCause.SHUTDOWN)
        should_stop()
        run.token.request(cause=StopCause.REQUEST)
        await tools.data_store.get("a")

    run = Started(work)
    assert await run.outcome() == Outcome("stopped")


async def test_a_shutdown_that_was_not_observed_is_a_success_or_an_error() -> None:
    async def work(tools: Tools) -> str:
        run.token.request(cause=StopCause.SHUTDOWN)
        return "done"

    run = Started(work)
    assert (await run.outcome()).kind == "success"


async def test_a_host_that_goes_away_interrupts_and_finally_blocks_run() -> None:
    steps: list[str] = []
    waiting = asyncio.Event()

    async def work(tools: Tools) -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            steps.append("finally")

    run = Started(work)
    await within(SECONDS, waiting.wait())
    run.host_goes_away()
    assert await run.outcome() == Outcome("interrupted")
    assert steps == ["finally"]


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_host_that_goes_away_cuts_the_calls_in_flight(stopping: bool) -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        await tools.data_store.set("a", 1)

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    if stopping:
        run.token.request(cause=StopCause.SHUTDOWN)
    run.host_goes_away()
    assert (await run.outcome()).kind == "interrupted"
    assert run.only("data_store")["outcome"] == "aborted"


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_host_that_goes_away_cuts_the_calls_that_were_left_behind(stopping: bool) -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        background.append(asyncio.create_task(tools.data_store.set("a", 1)))
        await store.writing.wait()
        if stopping:
            run.token.request(cause=StopCause.SHUTDOWN)
        await asyncio.Event().wait()

    background: list[asyncio.Task[None]] = []
    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns()
    run.host_goes_away()
    assert (await run.outcome()).kind == "interrupted"
    assert run.only("data_store")["outcome"] == "aborted"
    assert background[0].cancelled()


async def test_a_host_that_goes_away_during_the_end_of_a_stop_cuts_what_is_waited_for() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> None:
        await asyncio.gather(tools.data_store.set("a", 1), met(tools))

    async def met(tools: Tools) -> None:
        await store.writing.wait()
        run.stop()
        await tools.data_store.get("b")

    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    await turns(20)
    assert not run.ending.done()
    run.host_goes_away()
    assert (await run.outcome()).kind == "stopped"
    assert run.only("data_store")["outcome"] == "aborted"


async def test_an_agent_that_gets_no_thread_ends_as_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("agent-"):
            raise RuntimeError("can't start new thread")  # as Python does, at the system's limit
        start(thread)

    def work(tools: SyncTools) -> None:
        raise AssertionError("not reached")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcome = await Started(work).outcome()
    assert outcome.kind == "error"
    assert outcome.error is not None
    assert "can't start new thread" in outcome.error["message"]


async def test_a_host_that_goes_away_does_not_wait_for_a_thread() -> None:
    let_go = threading.Event()
    started = threading.Event()
    refused: list[str] = []
    finished = threading.Event()

    def work(tools: SyncTools) -> None:
        started.set()
        let_go.wait(SECONDS)
        try:
            tools.data_store.get("a")
        except RunIsOver as error:
            refused.append(type(error).__name__)
        finished.set()

    run = Started(work)
    await asyncio.to_thread(started.wait, SECONDS)
    run.host_goes_away()
    assert (await within(SECONDS, run.ending)).kind == "interrupted"
    assert "the agent left a thread running: work (test_shutdown.py:" in run.only("log")["message"]
    let_go.set()
    assert await asyncio.to_thread(finished.wait, SECONDS)
    assert refused == ["RunIsOver"]
