"""``use_namespace``: a switch holds for the code that made it, and for what that code starts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents import SyncTools, Tools, agent, registry
from agents.testing import MemoryDataStore, run
from agents.tools.data_store import DataStore
from tests.support.agent_run import AgentRun

SECONDS = 10.0
Branches = Callable[[Awaitable[None], Awaitable[None]], Awaitable[object]]


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


@pytest.fixture
def store() -> MemoryDataStore:
    return MemoryDataStore()


async def _in_a_gather(*branches: Awaitable[None]) -> None:
    await asyncio.gather(*branches)


async def _in_a_group(*branches: Awaitable[None]) -> None:
    async with asyncio.TaskGroup() as group:
        for branch in branches:
            group.create_task(branch)  # type: ignore[arg-type]


async def _in_tasks(*branches: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(branch) for branch in branches]
    await asyncio.wait(tasks)
    assert [task.result() for task in tasks] == [None] * len(tasks)


@pytest.mark.parametrize("together", [_in_a_gather, _in_a_group, _in_tasks])
def test_branches_switch_for_themselves(together: Branches, store: MemoryDataStore) -> None:
    @agent("branches")
    async def branches(tools: Tools) -> None:
        tools.data_store.use_namespace("before")
        switched = asyncio.Event()

        async def first() -> None:
            await switched.wait()  # the other branch has switched, and is not over
            await tools.data_store.set("first", 1)
            tools.data_store.use_namespace("a")
            await tools.data_store.set("first", 2)

        async def second() -> None:
            tools.data_store.use_namespace("b")
            switched.set()
            await tools.data_store.set("second", 1)
            await asyncio.sleep(0)
            await tools.data_store.set_many({"third": 1})

        await together(first(), second())
        await tools.data_store.set("after", 1)

    assert run(branches, data_store=store).status == "success"
    assert store.entries == {
        "before": {"first": 1, "after": 1},
        "a": {"first": 2},
        "b": {"second": 1, "third": 1},
    }


def test_a_helper_that_is_awaited_switches_for_its_caller(store: MemoryDataStore) -> None:
    @agent("helped")
    async def helped(tools: Tools) -> None:
        async def switch() -> None:
            tools.data_store.use_namespace("mine")

        await switch()
        await tools.data_store.set("a", 1)
        await asyncio.create_task(tools.data_store.set("b", 1))

    assert run(helped, data_store=store).status == "success"
    assert store.entries == {"mine": {"a": 1, "b": 1}}


def test_a_called_agent_begins_in_the_default_namespace(store: MemoryDataStore) -> None:
    @agent("called")
    async def called(tools: Tools) -> None:
        await tools.data_store.set("called", 1)
        tools.data_store.use_namespace("of the called one")

    @agent("caller")
    async def caller(tools: Tools) -> None:
        tools.data_store.use_namespace("of the caller")
        await tools.agents.call("called")
        await tools.data_store.set("caller", 1)

    assert run(caller, data_store=store).status == "success"
    assert store.entries == {"default": {"called": 1}, "of the caller": {"caller": 1}}


async def test_two_stores_in_one_context_have_namespaces_of_their_own() -> None:
    backend = MemoryDataStore()
    first, second = (DataStore(AgentRun().guard, backend) for _ in range(2))
    first.use_namespace("a")
    second.use_namespace("b")
    await first.set("key", 1)
    assert backend.entries == {"a": {"key": 1}}


def test_threads_of_an_async_agent_switch_for_themselves(store: MemoryDataStore) -> None:
    @agent("threads")
    async def threads(tools: Tools) -> None:
        loop = asyncio.get_running_loop()
        both = threading.Barrier(2, timeout=SECONDS)

        def work(name: str) -> None:
            tools.data_store.use_namespace(name)
            both.wait()  # both have switched
            writing = tools.data_store.set("key", name)
            asyncio.run_coroutine_threadsafe(writing, loop).result(SECONDS)

        await asyncio.gather(asyncio.to_thread(work, "a"), asyncio.to_thread(work, "b"))
        await tools.data_store.set("key", "none")

    assert run(threads, data_store=store).status == "success"
    assert store.entries == {"a": {"key": "a"}, "b": {"key": "b"}, "default": {"key": "none"}}


def test_threads_of_a_def_agent_switch_for_themselves(store: MemoryDataStore) -> None:
    """They are bare ones: no context comes with them."""

    @agent("threads")
    def threads(tools: SyncTools) -> None:
        tools.data_store.use_namespace("before")
        both = threading.Barrier(2, timeout=SECONDS)

        def work(name: str) -> None:
            tools.data_store.set(f"of {name}", 1)
            both.wait()
            tools.data_store.use_namespace(name)
            both.wait()
            tools.data_store.set("key", name)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, ["a", "b"]))
        tools.data_store.set("after", 1)

    assert run(threads, data_store=store).status == "success"
    assert store.entries == {
        "before": {"of a": 1, "of b": 1, "after": 1},
        "a": {"key": "a"},
        "b": {"key": "b"},
    }
