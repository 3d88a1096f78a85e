"""Runs in one loop: one after the other, and beside each other."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from agents import SyncTools, Tools, cleanup, output, should_stop
from agents.cancellation import current_token
from agents.guard import current_call, current_guard
from agents.runtime import AgentTask, Outcome
from agents.trace import current_trace
from tests.support.started_run import SECONDS, Started, ended, turns

_leaked: ContextVar[str] = ContextVar("leaked", default="clean")


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_the_next_run_in_the_same_loop_starts_clean(is_async: bool) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append((_leaked.get(), should_stop(), current_call()))

    async def dirty(tools: Tools) -> None:
        _leaked.set("dirty")
        print("an unfinished line", end="")
        first.stop()
        async with cleanup():
            await tools.data_store.get("a")
            await tools.http.get("http://x")
        await tools.data_store.get("a")

    async def coroutine(tools: Tools) -> str:
        look()
        await tools.data_store.get("a")
        print("my own line")
        return "clean"

    def function(tools: SyncTools) -> str:
        look()
        tools.data_store.get("a")
        print("my own line")
        return "clean"

    output.install()
    try:
        first = Started(dirty)
        assert (await first.outcome()).kind == "stopped"
        second = Started(coroutine if is_async else function)
        assert await second.outcome() == Outcome("success", result="clean")
    finally:
        output.uninstall()
    assert seen == [("clean", False, None)]
    assert first.only("stdout")["text"] == "an unfinished line"
    assert second.only("stdout")["text"] == "my own line"
    assert second.events("stop_observed") == []
    assert (current_token(), current_trace(), current_guard(), _leaked.get()) == (
        None,
        None,
        None,
        "clean",
    )


async def test_a_stop_of_one_run_does_not_touch_the_one_beside_it() -> None:
    may_end = asyncio.Event()

    async def work(tools: Tools) -> str:
        await tools.data_store.get("a")
        await may_end.wait()
        await tools.data_store.get("b")
        return "done"

    runs = [Started(work) for _ in range(10)]
    await turns()
    for run in runs[::2]:
        run.stop()
    may_end.set()
    kinds = [(await run.outcome()).kind for run in runs]
    assert kinds == ["stopped", "success"] * 5


async def test_tasks_know_whose_they_are() -> None:
    async def work(tools: Tools) -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        assert isinstance(task, AgentTask)
        assert task.guard is current_guard()
        other = asyncio.create_task(asyncio.sleep(0), context=contextvars.Context())
        assert isinstance(other, AgentTask)
        assert other.guard is None
        assert task in run.guard.tasks
        await asyncio.gather(task, other)

    run = Started(work)
    assert (await run.outcome()).error is None


async def test_a_def_agent_that_uses_its_tools_on_the_loop_is_told_so() -> None:
    errors: list[str] = []

    def work(tools: SyncTools) -> None:
        def on_loop() -> None:
            try:
                tools.data_store.get("a")
            except RuntimeError as error:
                errors.append(str(error))
            finally:
                done.set()

        done = threading.Event()
        loop.call_soon_threadsafe(on_loop)
        assert done.wait(SECONDS)

    loop = asyncio.get_running_loop()
    assert (await ended(work)).kind == "success"
    assert "event loop" in errors[0]
