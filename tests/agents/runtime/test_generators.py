"""Async generators that an agent leaves in the middle: they are closed before the run ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agents import Tools, cleanup
from agents.guard import current_guard
from agents.process import generators
from tests.support.agent_run import within
from tests.support.started_run import SECONDS, SlowStore, Started, in_flight, turns

Numbers = Callable[[Tools], AsyncIterator[int]]


async def saving(tools: Tools) -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        async with cleanup():
            await tools.data_store.set("saved", True)


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "dropped"])
@pytest.mark.parametrize("how", ["return", "error", "stop"])
async def test_its_finally_block_may_still_save(how: str, is_kept: bool) -> None:
    kept: list[Any] = []

    async def work(tools: Tools) -> None:
        numbers = saving(tools)
        if is_kept:
            kept.append(numbers)
        async for _ in numbers:
            break
        del numbers
        if how == "error":
            raise ValueError("no")
        if how == "stop":
            run.stop()
            await tools.data_store.get("x")

    run = Started(work)
    assert (await run.outcome()).kind == {"return": "success", "error": "error"}.get(how, "stopped")
    assert run.store.entries == {"default": {"saved": True}}
    assert run.guard.calls_started_after_acknowledgement == 0
    assert not run.guard.generators


async def test_the_run_waits_for_its_finally_block_and_shows_it() -> None:
    store = SlowStore()

    async def work(tools: Tools) -> str:
        kept.append(numbers := saving(tools))
        await anext(numbers)
        return "done"

    kept: list[Any] = []
    run = Started(work, store=store)
    await within(SECONDS, store.writing.wait())
    (label,) = await in_flight(run, "task")
    assert label.startswith("saving (test_generators.py:")
    assert label.endswith("closing")
    await turns(20)
    assert not run.ending.done()
    store.may_write.set()
    assert (await run.outcome()).kind == "success"


async def test_other_code_that_is_left_has_no_tools_while_generators_are_closed() -> None:
    refused: list[str] = []

    async def background(tools: Tools) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await tools.data_store.set("late", 1)
            except BaseException as error:
                refused.append(type(error).__name__)

    async def work(tools: Tools) -> None:
        kept.append(numbers := saving(tools))
        await anext(numbers)
        kept.append(asyncio.create_task(background(tools)))
        await asyncio.sleep(0)

    kept: list[Any] = []
    run = Started(work)
    await run.outcome()
    assert refused == ["RunIsOver"]
    assert run.store.entries == {"default": {"saved": True}}


async def test_one_that_fails_while_it_is_closed_is_named_in_the_log() -> None:
    async def failing() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("can't be saved")

    async def work(tools: Tools) -> str:
        kept.append(numbers := failing())
        await anext(numbers)
        return "done"

    kept: list[Any] = []
    run = Started(work)
    assert (await run.outcome()).result == "done"
    message = run.only("log")["message"]
    assert "failing (test_generators.py:" in message
    assert "can't be saved" in message


async def test_one_that_another_run_collects_is_closed_in_its_own_run() -> None:
    """The collector runs in whichever run makes garbage."""
    seen: list[Any] = []

    async def noting() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append(current_guard())

    async def careless(tools: Tools) -> None:
        numbers = noting()
        await anext(numbers)
        cycle: list[Any] = [numbers]
        cycle.append(cycle)
        del numbers, cycle
        made.set()
        await go_on.wait()

    async def other(tools: Tools) -> None:
        gc.collect()

    made, go_on = asyncio.Event(), asyncio.Event()
    gc.disable()
    try:
        first = Started(careless)
        await within(SECONDS, made.wait())
        await Started(other).outcome()
        go_on.set()
        await first.outcome()
    finally:
        gc.enable()
    assert seen == [first.guard]


async def test_those_that_are_over_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "MIN_COUNT", 4)
    most: list[int] = []

    async def short() -> AsyncIterator[int]:
        yield 1

    async def work(tools: Tools) -> None:
        for _ in range(50):
            async for _ in short():
                pass
            most.append(len(run.guard.generators))

    run = Started(work)
    await run.outcome()
    assert max(most) <= 8
    assert not generators._notes


async def test_generators_outside_of_runs_are_the_loops_own() -> None:
    async def plain() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def work(tools: Tools) -> None: ...

    await Started(work).outcome()  # the hooks are set
    numbers = plain()
    await anext(numbers)
    assert not generators._notes
    await numbers.aclose()
