"""A run leaves nothing for the next one in the same process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agents import SyncTools, Tools, agent, cleanup, should_stop
from agents.cancellation import current_token, is_in_cleanup
from agents.guard import current_guard
from agents.trace import current_trace
from runs.delivery import local_runs
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Start

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def start_worker(hire: Callable[..., Worker]) -> Callable[..., Worker]:
    """Call it in the test's body: between setup and body, pytest replaces the streams."""
    return hire


@pytest.mark.parametrize("kind", ["async", "def"])
def test_the_next_run_starts_with_a_clean_token_and_context(
    kind: str, start_worker: Any, start: Start, stop: Any, log: Journal
) -> None:
    start_worker()
    seen: list[Any] = []

    @agent("first-async")
    async def first_async(tools: Tools) -> None:
        colour.set("red")
        print("no end of line", end="")
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)

    @agent("first-def")
    def first_def(tools: SyncTools) -> None:
        colour.set("red")
        print("no end of line", end="")
        tools.log("at work")
        while True:
            tools.data_store.get("x")

    def look() -> None:
        token, trace, guard = current_token(), current_trace(), current_guard()
        seen.append((colour.get(), should_stop(), is_in_cleanup(), token, trace, guard))

    @agent("second-async")
    async def second_async(tools: Tools) -> str:
        look()
        print("mine")
        await tools.data_store.set("x", 1)
        return "done"

    @agent("second-def")
    def second_def(tools: SyncTools) -> str:
        look()
        print("mine")
        tools.data_store.set("x", 1)
        return "done"

    first = start(f"first-{kind}")
    log.until_event(first, "log", message="at work")
    token = local_runs.get(first.pk).token  # type: ignore[union-attr]
    stop(first)
    assert log.over(first).status == Status.STOPPED
    second = start(f"second-{kind}")
    record = log.over(second)
    assert (record.status, record.result) == (Status.SUCCESS, "done")
    ((its_colour, told_to_stop, in_cleanup, its_token, its_trace, its_guard),) = seen
    assert its_colour == "none"
    assert not told_to_stop
    assert not in_cleanup
    assert its_token is not token
    assert its_token.parent is None
    assert its_trace.run == str(second.pk)
    assert its_guard.token is its_token
    assert [e.data["text"] for e in log.of(first, "stdout")] == ["no end of line"]
    assert [e.data["text"] for e in log.of(second, "stdout")] == ["mine"]
    assert not record.stop_requested
    assert_consistent(first)
    assert_consistent(second)


@pytest.mark.usefixtures("worker")
def test_a_cleanup_that_was_left_open_ends_with_its_run(start: Start, log: Journal) -> None:
    @agent("opener")
    async def opener(tools: Tools) -> None:
        cleanup(seconds=100).__enter__()

    @agent("looker")
    async def looker(tools: Tools) -> bool:
        return is_in_cleanup()

    log.over(start("opener"))
    assert log.over(start("looker")).result is False


@pytest.mark.usefixtures("worker")
def test_a_run_leaves_nothing_in_the_process(start: Start, stop: Any, log: Journal) -> None:
    @agent("worker-bee")
    async def worker_bee(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)

    runs = [start("worker-bee") for _ in range(5)]
    for run in runs:
        log.until_event(run, "log", message="at work")
    threads = _thread_count()
    for run in runs:
        stop(run)
    log.until_over(*runs)
    eventually(lambda: not local_runs.all_runs(), "the runs are forgotten")
    assert _thread_count() <= threads


def _thread_count() -> int:
    # The database pool grows up to its size.
    names = [thread.name for thread in threading.enumerate()]
    return sum(not name.startswith("runs-database") for name in names)


def test_fifty_runs_that_print_at_once_each_keep_their_own_lines(
    start_worker: Any, start: Start, log: Journal
) -> None:
    start_worker()
    logger = logging.getLogger("an.agents.own")

    @agent("printer")
    async def printer(tools: Tools, n: int) -> None:
        for line in range(20):
            print(f"{n}", end=" ")
            await asyncio.sleep(0)
            print(f"line {line}")
            logger.info("%d logs %d", n, line)

    @agent("printer-def")
    def printer_def(tools: SyncTools, n: int) -> None:
        for line in range(20):
            sys.stdout.write(f"{n} ")
            sys.stdout.write(f"line {line}\n")
            logger.info("%d logs %d", n, line)

    runs = [start("printer" if n % 2 else "printer-def", n=n) for n in range(50)]
    log.until_over(*runs)
    for n, run in enumerate(runs):
        text = "\n".join(e.data["text"] for e in log.of(run, "stdout"))
        assert text.splitlines() == [f"{n} line {line}" for line in range(20)]
        logged = [e.data["message"] for e in log.of(run, "log")]
        assert logged == [f"{n} logs {line}" for line in range(20)]
        assert_consistent(run)


def test_a_thread_that_outlives_its_run_does_not_write_into_the_next_run(
    start_worker: Any, start: Start, log: Journal
) -> None:
    start_worker()
    may_continue, done = threading.Event(), threading.Event()

    @agent("leaver")
    async def leaver(tools: Tools) -> str:
        def late() -> None:
            may_continue.wait(10)
            print("too late")
            tools.log("too late")
            done.set()

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(late,), daemon=True).start()
        return "left"

    @agent("next")
    async def next_one(tools: Tools) -> None:
        may_continue.set()
        await asyncio.to_thread(done.wait, 10)

    first = start("leaver")
    assert log.over(first).result == "left"
    second = start("next")
    assert log.over(second).status == Status.SUCCESS
    for run in (first, second):
        assert "too late" not in str([e.data for e in log.of(run)])
        assert_consistent(run)
