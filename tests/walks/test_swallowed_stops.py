"""Agents that catch what they should not: the stop takes effect all the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest

from agents import AgentStopped, SyncTools, Tools, agent, check_should_stop, should_stop
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.running import Start

pytestmark = pytest.mark.usefixtures("worker")


def test_except_exception_does_not_swallow_the_stop(start: Start, stop: Any, log: Journal) -> None:
    caught: list[Exception] = []

    @agent("careless")
    async def careless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            try:
                await tools.data_store.get("x")
            except Exception as error:
                caught.append(error)
            await asyncio.sleep(0.001)

    run = start("careless")
    log.until_event(run, "log", message="at work")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert caught == []
    assert_consistent(run)


@pytest.mark.parametrize("kind", ["async", "def"])
def test_except_base_exception_only_delays_the_stop_to_the_next_guard(
    kind: str, start: Start, stop: Any, log: Journal
) -> None:
    refusals = itertools.count(1)

    @agent("stubborn-async")
    async def stubborn_async(tools: Tools) -> str:
        tools.log("at work")
        while True:
            try:
                await tools.data_store.set("x", 1)
            except BaseException:
                if next(refusals) == 5:
                    return "gave in"
            await asyncio.sleep(0)

    @agent("stubborn-def")
    def stubborn_def(tools: SyncTools) -> str:
        tools.log("at work")
        while True:
            try:
                tools.data_store.set("x", 1)
            except BaseException:
                if next(refusals) == 5:
                    return "gave in"

    run = start(f"stubborn-{kind}")
    log.until_event(run, "log", message="at work")
    stop(run)
    record = log.over(run)
    assert record.status == Status.STOPPED
    assert (record.result, record.partial_result) == (None, "gave in")
    assert next(refusals) == 6
    assert len(log.of(run, "stop_observed")) == 1
    calls = log.of(run, "data_store")
    assert all(e.data["outcome"] == "ok" for e in calls)
    assert max(e.seq for e in calls) < log.of(run, "stop_observed")[0].seq
    assert_consistent(run)


@pytest.mark.parametrize("way", ["return", "raise"])
def test_an_agent_that_swallows_the_stop_and_uses_no_tools_is_stopped_all_the_same(
    way: str, start: Start, stop: Any, log: Journal
) -> None:
    @agent("deaf")
    async def deaf(tools: Tools, way: str) -> str:
        tools.log("at work")
        with contextlib.suppress(BaseException):
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.001)
        if way == "raise":
            raise RuntimeError("something else went wrong")
        return "as if nothing had happened"

    run = start("deaf", way=way)
    log.until_event(run, "log", message="at work")
    stop(run)
    record = log.over(run)
    assert record.status == Status.STOPPED
    assert (record.result, record.error) == (None, None)
    if way == "raise":
        assert record.stop_cleanup_error["message"] == "something else went wrong"
    else:
        assert record.partial_result == "as if nothing had happened"
    assert_consistent(run)


@pytest.mark.parametrize("question", ["should_stop", "check_should_stop"])
def test_code_without_tools_observes_the_stop_by_should_stop(
    question: str, start: Start, stop: Any, log: Journal
) -> None:
    @agent("computing")
    def computing(tools: SyncTools, question: str) -> int:
        tools.log("at work")
        for n in itertools.count():
            if question == "check_should_stop":
                check_should_stop()
            elif should_stop():
                return n
        raise AssertionError

    run = start("computing", question=question)
    log.until_event(run, "log", message="at work")
    stop(run)
    record = log.over(run)
    assert record.status == Status.STOPPED
    assert (record.partial_result is None) == (question == "check_should_stop")
    assert log.of(run, "stop_observed")[0].data["tool"] == question
    assert_consistent(run)


def test_an_agent_that_raises_agent_stopped_without_a_stop_ends_in_error(
    start: Start, log: Journal
) -> None:
    @agent("pretender")
    async def pretender(tools: Tools) -> None:
        raise AgentStopped("I would rather not")

    record = log.over(start("pretender"))
    assert record.status == Status.ERROR
    assert record.error["code"] == "stopped_without_request"
    assert not record.stop_requested
    assert_consistent(record)


@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
@pytest.mark.parametrize("kind", ["async", "def"])
def test_an_exception_that_would_end_a_process_ends_the_run_as_an_error(
    error: type[BaseException], kind: str, start: Start, log: Journal
) -> None:
    @agent("quitter-async")
    async def quitter_async(tools: Tools) -> None:
        raise error("bye")

    @agent("quitter-def")
    def quitter_def(tools: SyncTools) -> None:
        raise error("bye")

    record = log.over(start(f"quitter-{kind}"))
    assert record.status == Status.ERROR
    assert record.error["type"] == error.__name__
    assert_consistent(record)


def test_the_stop_passes_gather_wait_for_and_shield(start: Start, stop: Any, log: Journal) -> None:
    @agent("wrapped")
    async def wrapped(tools: Tools) -> None:
        async def work() -> None:
            while True:
                await tools.data_store.get("x")
                await asyncio.sleep(0.001)

        tools.log("at work")
        results = await asyncio.gather(
            asyncio.wait_for(work(), 60), asyncio.shield(work()), return_exceptions=True
        )
        for result in results:
            tools.log(type(result).__name__)

    run = start("wrapped")
    log.until_event(run, "log", message="at work")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    lines = [e.data["message"] for e in log.of(run, "log")]
    assert lines == ["at work", "AgentStopped", "AgentStopped"]
    assert_consistent(run)
